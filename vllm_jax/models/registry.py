"""Which model families there are, and which one a ``config.json`` means.

Knows one line a family. Does not know how any of them computes. Code named by a config's ``auto_map`` is
never run: the field is not looked at, and models that need it elsewhere (such as mpt-7b) load natively.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from vllm_jax.errors import ConfigError
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.models import llama, mistral, mpt, qwen2, qwen3
from vllm_jax.weights.table import WeightTable


class ModelConfig(Protocol):
    """What every family's config tells the engine. Lengths are in tokens."""

    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def num_heads(self) -> int: ...  # noqa: D102
    @property
    def num_kv_heads(self) -> int: ...  # noqa: D102
    @property
    def head_dim(self) -> int: ...  # noqa: D102
    @property
    def max_position(self) -> int | None: ...  # noqa: D102
    @property
    def sliding_window(self) -> int | None: ...  # noqa: D102


class CausalLM(Protocol):
    """What every family's module can do."""

    def __call__(
        self,
        tokens: jax.Array,
        kv_pages: list[jax.Array] | None = None,
        metadata: AttentionMetadata | None = None,
    ) -> tuple[jax.Array, list[jax.Array] | None]:
        """``tokens [T]`` int32 -> ``(hidden [T, H], updated pages)``; see any family."""
        ...

    def logits(self, hidden: jax.Array) -> jax.Array:
        """``hidden [N, H]`` -> ``[N, V]`` float32."""
        ...


@dataclass(frozen=True)
class ModelFamily:
    """A model type with its parts.

    Attributes:
        model_type: the config's ``model_type``.
        architectures: values of the config's ``architectures`` that mean this family; the base models
            without an output layer are among them, because tied checkpoints are often saved from those.
        read_config: ``config.json`` as a dict -> the family's config; raises ConfigError.
        build: ``(config, dtype, rngs)`` -> the module with freshly drawn parameters.
        weights: the family's config -> the tensors of its checkpoints.
    """

    model_type: str
    architectures: tuple[str, ...]
    read_config: Callable[[Mapping[str, Any]], ModelConfig]
    build: Callable[..., nnx.Module]
    weights: Callable[..., WeightTable]


FAMILIES: tuple[ModelFamily, ...] = (
    ModelFamily(
        "llama",
        ("LlamaForCausalLM", "LlamaModel"),
        llama.LlamaConfig.from_hf,
        llama.LlamaForCausalLM,
        llama.weights,
    ),
    ModelFamily(
        "mistral",
        ("MistralForCausalLM", "MistralModel"),
        mistral.MistralConfig.from_hf,
        mistral.MistralForCausalLM,
        mistral.weights,
    ),
    ModelFamily(
        "mpt",
        ("MPTForCausalLM", "MptForCausalLM", "MPTModel", "MptModel"),
        mpt.MptConfig.from_hf,
        mpt.MptForCausalLM,
        mpt.weights,
    ),
    ModelFamily(
        "qwen2",
        ("Qwen2ForCausalLM", "Qwen2Model"),
        qwen2.Qwen2Config.from_hf,
        qwen2.Qwen2ForCausalLM,
        qwen2.weights,
    ),
    ModelFamily(
        "qwen3",
        ("Qwen3ForCausalLM", "Qwen3Model"),
        qwen3.Qwen3Config.from_hf,
        qwen3.Qwen3ForCausalLM,
        qwen3.weights,
    ),
)


def resolve(config: Mapping[str, Any]) -> ModelFamily:
    """The family a config belongs to, by ``architectures`` and ``model_type``.

    Either field is enough; where both are there they must mean the same family.

    Raises:
        ConfigError: no family fits, or the fields contradict each other; the text lists what is supported.
    """
    supported = "supported: " + ", ".join(f"{f.architectures[0]} ({f.model_type})" for f in FAMILIES)
    model_type = config.get("model_type")
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise ConfigError(f"config.json: architectures must be a list of names, got {architectures!r}")
    if model_type is None and not architectures:
        raise ConfigError(f"config.json names neither architectures nor a model_type ({supported})")
    by_type = [family for family in FAMILIES if family.model_type == model_type]
    by_name = [family for family in FAMILIES if set(architectures) & set(family.architectures)]
    if architectures and len(by_name) != 1:
        raise ConfigError(f"the architecture {', '.join(architectures)} is not supported ({supported})")
    if model_type is not None and not by_type:
        raise ConfigError(f"the model type {model_type!r} is not supported ({supported})")
    if by_name and by_type and by_name != by_type:
        raise ConfigError(
            f"config.json contradicts itself: model_type {model_type!r}, architectures {architectures}"
        )
    return (by_name or by_type)[0]


def build_model(family: ModelFamily, config: ModelConfig, *, dtype: jnp.dtype, seed: int) -> nnx.Module:
    """A model of the family with random parameters, scaled as for training; the same for the same seed."""
    return family.build(config, dtype=dtype, rngs=_Rngs(seed))


class _Rngs(nnx.Rngs):
    """The same keys as those of its base, counted in Python.

    Flax counts in a variable. To change one while a model is traced makes jax walk over all that was traced
    before, so that the time to trace a model's shapes would grow with the square of its layers.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.default = _Stream(jax.random.key(seed), tag="default")


class _Stream(nnx.RngStream):
    drawn: int = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.drawn)
        self.drawn += 1
        return key
