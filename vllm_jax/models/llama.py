"""Llama 1 to 3 and the many models that share its architecture (Touvron et al. 2023, arXiv:2302.13971).

What is its own: biases are optional everywhere, no sliding window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_jax.models.decoder import DecoderConfig, DecoderForCausalLM, read_sizes, weights
from vllm_jax.models.hf_config import FieldReader

__all__ = ["LlamaConfig", "LlamaForCausalLM", "weights"]


@dataclass(frozen=True)
class LlamaConfig(DecoderConfig):
    """A Llama's :class:`DecoderConfig`."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """Reads a ``config.json``.

        Raises:
            ConfigError: a field is missing or cannot be honoured; the text names it.
        """
        fields = FieldReader(config, "llama config")
        sizes = read_sizes(fields, num_kv_heads=None, head_dim=None, max_position=2048)
        attention_bias = fields.boolean("attention_bias", False)
        built = cls(
            **sizes,
            layer_windows=(None,) * sizes["num_layers"],
            qkv_bias=attention_bias,
            out_bias=attention_bias,
            mlp_bias=fields.boolean("mlp_bias", False),
        )
        fields.finish(without_effect=("is_llama_config", "max_sequence_length"))
        return built


class LlamaForCausalLM(DecoderForCausalLM):
    """The shared decoder under its family's name."""
