"""Mistral 7B and its successors (Jiang et al. 2023, arXiv:2310.06825).

What is its own: one sliding window for all layers (or none), no biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_jax.models.decoder import DecoderConfig, DecoderForCausalLM, read_sizes, weights
from vllm_jax.models.hf_config import FieldReader

__all__ = ["MistralConfig", "MistralForCausalLM", "weights"]


@dataclass(frozen=True)
class MistralConfig(DecoderConfig):
    """A Mistral's :class:`DecoderConfig`."""

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> MistralConfig:
        """Reads a ``config.json``. An absent ``sliding_window`` is 4096, a null one is no window.

        Raises:
            ConfigError: a field is missing or cannot be honoured; the text names it.
        """
        fields = FieldReader(config, "mistral config")
        sizes = read_sizes(fields, num_kv_heads=8, head_dim=None, max_position=4096 * 32)
        window = None if fields.is_null("sliding_window") else fields.integer("sliding_window", 4096)
        kind = "full_attention" if window is None else "sliding_attention"
        fields.strings("layer_types", (kind,))  # mixed layers are another model type
        built = cls(**sizes, layer_windows=(window,) * sizes["num_layers"])
        fields.finish()
        return built


class MistralForCausalLM(DecoderForCausalLM):
    """The shared decoder under its family's name."""
