"""A family, its config and a checkpoint directory -> a model that is ready to run.

Brings together what knows nothing of each other: the registry of families and the loader of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx

from vllm_jax.models.registry import ModelConfig, ModelFamily, build_model, resolve
from vllm_jax.weights.loader import LoadedInfo, Place, Progress, describe, load_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, what kind it is, and what was read."""

    model: nnx.Module
    family: ModelFamily
    config: ModelConfig
    info: LoadedInfo


def load_model(directory: Path, config: Mapping[str, Any], **settings: Any) -> LoadedModel:
    """:func:`load_family` for a ``config.json`` (overrides applied); takes the same settings.

    Raises:
        ConfigError: the config cannot be honoured, or (as CheckpointError) the checkpoint does not fit it.
    """
    family = resolve(config)
    return load_family(directory, family, family.read_config(config), **settings)


def load_family(
    directory: Path,
    family: ModelFamily,
    config: ModelConfig,
    *,
    dtype: jnp.dtype,
    load_format: Literal["auto", "safetensors", "dummy"] = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    place: Place | None = None,
) -> LoadedModel:
    """Loads a model of a family.

    Args:
        directory: the checkpoint; not looked at for random weights.
        family: what :func:`~vllm_jax.models.registry.resolve` finds in its ``config.json``.
        config: the same file as the family has read it.
        dtype: of parameters and activations; see :func:`vllm_jax.weights.dtype.resolve_dtype`.
        load_format: "auto" and "safetensors" read the checkpoint, "dummy" draws random weights.
        seed: seeds the random weights.
        progress: called with (bytes done, bytes in total).
        place: puts arrays onto devices; see :func:`vllm_jax.weights.loader.load_weights`.

    Raises:
        CheckpointError: the checkpoint does not fit the config.
    """

    def build() -> nnx.Module:
        return build_model(family, config, dtype=dtype, seed=seed)

    if load_format == "dummy":
        model = build()
        info = describe(model, dtype)
        if progress is not None:
            progress(info.num_bytes, info.num_bytes)
        return LoadedModel(model, family, config, info)
    model, files = load_weights(build, family.weights(config), directory, progress=progress, place=place)
    return LoadedModel(model, family, config, describe(model, dtype, files))
