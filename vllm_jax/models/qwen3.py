"""Qwen3, the dense models (Yang et al. 2025, arXiv:2505.09388).

What is its own: queries and keys are normalised per head, heads of 128 features whatever the width, optional
attention biases, a sliding window in some of the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_jax.models.decoder import (
    DecoderConfig,
    DecoderForCausalLM,
    read_layer_windows,
    read_sizes,
    weights,
)
from vllm_jax.models.hf_config import FieldReader

__all__ = ["Qwen3Config", "Qwen3ForCausalLM", "weights"]


@dataclass(frozen=True)
class Qwen3Config(DecoderConfig):
    """A Qwen3's :class:`DecoderConfig`."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Qwen3Config:
        """Reads a ``config.json``.

        Raises:
            ConfigError: a field is missing or cannot be honoured; the text names it.
        """
        fields = FieldReader(config, "qwen3 config")
        sizes = read_sizes(fields, num_kv_heads=32, head_dim=128, max_position=32768)
        attention_bias = fields.boolean("attention_bias", False)
        built = cls(
            **sizes,
            layer_windows=read_layer_windows(fields, sizes["num_layers"]),
            qkv_bias=attention_bias,
            out_bias=attention_bias,
            qk_norm=True,
        )
        fields.finish()
        return built


class Qwen3ForCausalLM(DecoderForCausalLM):
    """The shared decoder under its family's name."""
