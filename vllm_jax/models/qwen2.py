"""Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671).

What is its own: biases on queries, keys and values, always; a sliding window in some of the layers.
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

__all__ = ["Qwen2Config", "Qwen2ForCausalLM", "weights"]


@dataclass(frozen=True)
class Qwen2Config(DecoderConfig):
    """A Qwen2's :class:`DecoderConfig`."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Qwen2Config:
        """Reads a ``config.json``.

        Raises:
            ConfigError: a field is missing or cannot be honoured; the text names it.
        """
        fields = FieldReader(config, "qwen2 config")
        sizes = read_sizes(fields, num_kv_heads=32, head_dim=None, max_position=32768)
        built = cls(**sizes, layer_windows=read_layer_windows(fields, sizes["num_layers"]), qkv_bias=True)
        fields.finish()
        return built


class Qwen2ForCausalLM(DecoderForCausalLM):
    """The shared decoder under its family's name."""
