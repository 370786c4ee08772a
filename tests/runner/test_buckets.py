"""The shape registry: everything a batch can be has a shape, and the shape was in the list."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_jax.runner.buckets import ShapeRegistry, at_least

LIMITS = st.integers(1, 300).flatmap(lambda seqs: st.tuples(st.just(seqs), st.integers(seqs, 4096)))


@given(LIMITS, st.data())
def test_every_batch_has_a_shape_of_the_registry(limits, data) -> None:
    registry = ShapeRegistry(*limits)
    rows = data.draw(st.integers(1, limits[0]))
    tokens = data.draw(st.integers(rows, limits[1]))
    mixed = registry.shape_for(tokens, rows, decode_only=False)
    decode = registry.shape_for(rows, rows, decode_only=True)
    for shape, wanted in ((mixed, tokens), (decode, rows)):
        assert shape in registry.shapes
        assert shape.num_tokens >= wanted and shape.num_rows >= rows
        assert shape.num_tokens <= limits[1] and shape.num_rows <= limits[0]
        assert at_least(registry.sampler_rows, shape.num_rows) in registry.sampler_rows
        assert shape.num_rows in registry.rows
    assert decode.num_tokens == decode.num_rows


@given(LIMITS)
def test_padding_at_most_doubles_a_step_and_the_registry_stays_small(limits) -> None:
    registry = ShapeRegistry(*limits)
    for ladder in (registry.decode_rows, registry.mixed_tokens):
        assert ladder == sorted(set(ladder))
        assert all(after <= 2 * before for before, after in pairwise(ladder))
    assert len(registry.shapes) <= 2 * 13
    assert registry.shapes[0].num_tokens == limits[1]


def test_the_default_limits_of_a_cpu() -> None:
    registry = ShapeRegistry(64, 512)
    assert registry.decode_rows == [1, 2, 4, 8, 16, 32, 64]
    assert registry.mixed_tokens == [16, 32, 64, 128, 256, 512]
    assert registry.sampler_rows == [1, 8, 64]
    with pytest.raises(ValueError, match="no compiled shape holds 65"):
        registry.shape_for(65, 65, decode_only=True)
