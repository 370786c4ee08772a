"""The weight table's own promises."""

from __future__ import annotations

import pytest

from vllm_jax.weights.table import Ignorable, Weight, WeightTable

NORM = Weight("model.norm.weight", "norm.weight", (4,), ("embed",))
EMBED = Weight("model.embed.weight", "embed.weight", (8, 4), ("vocab", "embed"), aliases=("lm_head.weight",))


@pytest.mark.parametrize(
    "other",
    [
        Weight("model.norm.weight", "other.weight", (4,), ("embed",)),
        Weight("other", "norm.weight", (4,), ("embed",)),
        Weight("other", "other", (4,), ("embed",), aliases=("model.norm.weight",)),
    ],
)
def test_names_and_paths_are_unique(other):
    with pytest.raises(ValueError, match="twice"):
        WeightTable((NORM, other))


def test_axes_must_be_known():
    with pytest.raises(ValueError, match="sideways"):
        Weight("a", "a", (4,), ("sideways",))


def test_the_prefix_goes_only_where_no_name_has_it():
    table = WeightTable((NORM, EMBED), prefix="model.")
    assert table.for_checkpoint(["model.norm.weight", "model.embed.weight"]) is table
    assert table.for_checkpoint(["model.norm.weight", "embed.weight"]) is table
    bare = table.for_checkpoint(["norm.weight"])
    assert [weight.names for weight in bare.weights] == [("norm.weight",), ("embed.weight", "lm_head.weight")]
    assert [weight.path for weight in bare.weights] == ["norm.weight", "embed.weight"]
    assert WeightTable((NORM,)).for_checkpoint(["norm.weight"]).weights == (NORM,)


def test_ignorable_names_match_as_a_whole():
    table = WeightTable((NORM,), ignorable=(Ignorable(r"rotary\.inv_freq", "computed"),))
    assert table.reason_to_ignore("rotary.inv_freq") == "computed"
    assert table.reason_to_ignore("rotary.inv_freq.weight") is None
    assert table.reason_to_ignore("a.rotary.inv_freq") is None
