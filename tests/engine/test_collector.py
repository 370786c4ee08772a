"""The collector's settings come back."""

from __future__ import annotations

import gc

from vllm_jax.engine.collector import frozen_heap


def test_what_lives_is_out_of_sight_and_the_settings_come_back() -> None:
    before = gc.get_threshold()
    with frozen_heap():
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] > before[0]
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() >= 1, "new garbage is still found"
    assert gc.get_threshold() == before
