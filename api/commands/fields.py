"""Which flags there are: one for each field of the config dataclasses. Knows types, not values."""

from __future__ import annotations

import functools
import typing
from typing import Any

from api.server_config import ServerConfig
from vllm_jax.config import EngineConfig


@functools.cache
def settings() -> dict[str, Any]:
    """Flag -> type, of every field of every group."""
    found: dict[str, Any] = {}
    for config in (EngineConfig, ServerConfig):
        for group in typing.get_type_hints(config).values():
            for name, kind in typing.get_type_hints(group).items():
                found["--" + name.replace("_", "-")] = kind
    return found


@functools.cache
def flag_types() -> dict[str, Any]:
    """The same, with the ``--no-`` forms of switches."""
    negated = {f"--no-{name[2:]}": bool for name, kind in settings().items() if kind is bool}
    return {**settings(), **negated}


def is_json(kind: Any) -> bool:
    """Whether a flag takes a JSON object."""
    return typing.get_origin(kind) is dict


def is_list(kind: Any) -> bool:
    """Whether a flag takes several words."""
    return typing.get_origin(kind) is tuple
