"""``--middleware``: what the operator has put around the application, by its import path.

That is the operator's own command line naming code on the operator's own machine, as PYTHONPATH does; nothing
that a client or a model repository sends reaches this module.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from vllm_jax.errors import ConfigError


def imported(paths: Sequence[str]) -> list[Any]:
    """The classes and async functions named ``package.module.name``.

    Raises:
        ConfigError: one cannot be imported, or is something else.
    """
    return [_imported(path) for path in paths]


def add_imported(app: FastAPI, paths: Sequence[str]) -> None:
    """Puts them around ``app``, each outside of those before it. Raises ConfigError."""
    for thing in imported(paths):
        if inspect.iscoroutinefunction(thing):
            app.middleware("http")(thing)
        else:
            app.add_middleware(thing)


def _imported(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise ConfigError(f"--middleware {path}: give an import path, package.module.name")
    try:
        thing = getattr(importlib.import_module(module), name)
    except Exception as error:  # an import runs code, which may fail in any way
        raise ConfigError(
            f"--middleware {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not (inspect.isclass(thing) or inspect.iscoroutinefunction(thing)):
        raise ConfigError(f"--middleware {path} is neither a class nor an async function")
    return thing
