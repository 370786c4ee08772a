"""Which type a model's weights and activations have.

Knows the names configs use and what ``--dtype auto`` means. Does not know the tensors: what a file stores is
converted to this type when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vllm_jax.errors import ConfigError

_COMPUTED: Mapping[str, str] = {
    "bfloat16": "bfloat16",
    "float16": "bfloat16",  # the same size, and no overflow in activations
    "float32": "float32",
    "float64": "float32",
}


def resolve_dtype(requested: str, config: Mapping[str, Any]) -> jnp.dtype:
    """The type to load a model in.

    Args:
        requested: "bfloat16", "float32", "float16", or "auto". "auto" takes the ``dtype`` (or
            ``torch_dtype``) of the config; one that names none means bfloat16. float16 becomes bfloat16, and
            a config's float64 float32.
        config: the model's ``config.json``.

    Raises:
        ConfigError: another type is requested, or the config names one that is no plain float.
    """
    if requested in ("bfloat16", "float32", "float16"):
        return jnp.dtype(_COMPUTED[requested])
    if requested != "auto":
        raise ConfigError(f"--dtype {requested} is not supported; use auto, bfloat16 or float32")
    field = "dtype" if config.get("dtype") is not None else "torch_dtype"
    name = config.get(field)
    if name is None:
        return jnp.dtype("bfloat16")
    plain = str(name).removeprefix("torch.")
    if plain not in _COMPUTED:
        raise ConfigError(
            f"config.json: {field} {name!r} is not supported; choose --dtype bfloat16 or float32"
        )
    return jnp.dtype(_COMPUTED[plain])
