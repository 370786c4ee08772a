"""Rotary settings of a Hugging Face config, in the layouts of transformers 4 and 5.

    transformers 4   {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0, ...} or null}
    transformers 5   {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, ...}}

Knows which kinds of scaling there are and how far each one reaches. The formulas are in ``layers/rotary.py``.
"""

from __future__ import annotations

from typing import Any

from vllm_jax.layers.rotary import (
    Rotary,
    linear_frequencies,
    llama3_frequencies,
    rope_frequencies,
    yarn_attention_scaling,
    yarn_frequencies,
)
from vllm_jax.models.hf_config import FieldReader

DEFAULT_THETA = 10_000.0

SUPPORTED_KINDS = ("default", "dynamic", "linear", "llama3", "yarn")


def read_rope(fields: FieldReader, head_dim: int, max_position: int) -> tuple[Rotary, int]:
    """Reads the rotary fields of a config.

    "dynamic" (NTK) scaling changes the base with the length of whatever is in the batch once a sequence is
    longer than ``max_position_embeddings``, and would leave older keys in the cache rotated by another base.
    Up to that length it is exactly the unscaled embedding. So it is served exactly, and only, up to there.

    Args:
        fields: the config; ``rope_theta``, ``rope_scaling``, ``rope_parameters``, ``partial_rotary_factor``
            and ``original_max_position_embeddings`` are taken from it.
        head_dim: features of a head; even.
        max_position: the config's ``max_position_embeddings``.

    Returns:
        The frequencies, and the longest sequence they are meant for, in tokens: ``max_position``, or more
        where linear or YaRN scaling stretches it.

    Raises:
        ConfigError: a kind or a field that cannot be honoured; the text names it.
    """
    why_not_partial = "this model family rotates whole heads"
    fields.refuse_unless("partial_rotary_factor", (1, 1.0), why_not_partial)
    theta = fields.number("rope_theta", DEFAULT_THETA)
    pretrained = fields.integer("original_max_position_embeddings", None)
    old, new = fields.mapping("rope_scaling"), fields.mapping("rope_parameters")
    if old and new:
        raise fields.error("both rope_scaling and rope_parameters are given; keep one")
    name, raw = ("rope_scaling", old) if old else ("rope_parameters", new or {})
    # A null inside the object is an absent entry, as outside.
    given: dict[str, Any] = {key: value for key, value in raw.items() if value is not None}
    scaling = FieldReader(given, f"config.json {name}", advice="")

    kinds = {str(given[key]) for key in ("rope_type", "type") if key in given} or {"default"}
    if len(kinds) > 1:
        raise fields.error(f"{name} has both a rope_type and another type: {sorted(kinds)}")
    (kind,) = kinds
    if kind not in SUPPORTED_KINDS:
        raise fields.error(
            f"{name} of type {kind!r} is not supported (supported: {', '.join(SUPPORTED_KINDS)})"
        )
    scaling.choice("rope_type", kind, SUPPORTED_KINDS)
    scaling.choice("type", kind, SUPPORTED_KINDS)
    theta = scaling.number("rope_theta", theta)
    scaling.refuse_unless("partial_rotary_factor", (1, 1.0), why_not_partial)

    inv_freq = rope_frequencies(head_dim, theta)
    attention_scaling = 1.0
    reach = max_position
    if kind == "dynamic":
        scaling.number("factor")
    elif kind == "linear":
        factor = scaling.number("factor")
        inv_freq = linear_frequencies(inv_freq, factor)
        reach = int(max_position * max(factor, 1.0))
    elif kind == "llama3":
        inside = scaling.integer("original_max_position_embeddings", max_position)
        low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
        if low >= high:
            raise fields.error(f"{name}: low_freq_factor {low} must be below high_freq_factor {high}")
        inv_freq = llama3_frequencies(
            inv_freq,
            factor=scaling.number("factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_length=pretrained or inside,
        )
    elif kind == "yarn":
        original = scaling.integer("original_max_position_embeddings", max_position)
        original = pretrained or original
        factor = scaling.number("factor", max_position / original)
        fast, slow = scaling.number("beta_fast", 32.0), scaling.number("beta_slow", 1.0)
        if fast < slow:
            raise fields.error(f"{name}: beta_fast {fast} must not be below beta_slow {slow}")
        inv_freq = yarn_frequencies(
            head_dim,
            theta,
            factor=factor,
            original_length=original,
            beta_fast=fast,
            beta_slow=slow,
            truncate=scaling.boolean("truncate", True),
        )
        mscale, mscale_all_dim = scaling.number("mscale", None), scaling.number("mscale_all_dim", None)
        attention_scaling = scaling.number(
            "attention_factor", yarn_attention_scaling(factor, mscale, mscale_all_dim)
        )
        reach = max(max_position, int(original * factor))
    scaling.finish()
    return Rotary(tuple(float(f) for f in inv_freq), float(attention_scaling)), reach
