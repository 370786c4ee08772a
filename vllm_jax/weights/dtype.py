"""Which type a model's weights and activations have.

Knows the names configs use and what ``--dtype auto`` means. Does not know the tensors: what a file stores is
converted to this type when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vllm_jax.errors import ConfigError

_AUTO: Mapping[str, str] = {
    "bfloat16": "bfloat16",
    "float16": "bfloat16",  # the same size, and no overflow in activations
    "float32": "float32",
    "float64": "float32",
}


def resolve_dtype(requested: str, config: Mapping[str, Any]) -> jnp.dtype:
    """The type to load a model in.

    Args:
        requested: "bfloat16", "float32", or "auto". "auto" takes the ``dtype`` (or ``torch_dtype``) of the
            config; float16 becomes bfloat16 and float64 float32. A config that names none means bfloat16.
        config: the model's ``config.json``.

    Raises:
        ConfigError: another type is requested, or the config names one that is no plain float.
    """
    if requested in ("bfloat16", "float32"):
        return jnp.dtype(requested)
    if requested != "auto":
        raise ConfigError(f"--dtype {requested} is not supported; use auto, bfloat16 or float32")
    field = "dtype" if config.get("dtype") is not None else "torch_dtype"
    name = config.get(field)
    if name is None:
        return jnp.dtype("bfloat16")
    plain = str(name).removeprefix("torch.")
    if plain not in _AUTO:
        raise ConfigError(
            f"config.json: {field} {name!r} is not supported; choose --dtype bfloat16 or float32"
        )
    return jnp.dtype(_AUTO[plain])
