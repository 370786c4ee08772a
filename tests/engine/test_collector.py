"""The collector's settings come back."""

from __future__ import annotations

import gc

from vllm_jax.engine.collector import frozen_heap


def test_what_lives_is_out_of_sight_and_the_settings_come_back() -> None:
    found = gc.get_threshold()  # a server of another test may be up in this process, with its own settings
    before = (700, *found[1:])
    gc.set_threshold(*before)
    try:
        with frozen_heap():
            assert gc.get_freeze_count() > 10_000
            assert gc.get_threshold()[0] > before[0]
            cycle: list[object] = []
            cycle.append(cycle)
            del cycle
            assert gc.collect() >= 1, "new garbage is still found"
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*found)
