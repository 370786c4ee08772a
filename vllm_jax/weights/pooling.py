"""How a checkpoint's hidden states become an embedding, by the files that sentence-transformers writes.

    modules.json          the parts of the model: Transformer, Pooling, perhaps Normalize
    1_Pooling/config.json which hidden states are pooled

Knows those files. Does not know the model; a causal one's last hidden state is the only pooling there is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vllm_jax.errors import CheckpointError, ConfigError
from vllm_jax.weights.files import read_json

MODULES_FILE = "modules.json"


@dataclass(frozen=True)
class Pooling:
    """The hidden state of the last token, divided by its length where ``normalize`` is set."""

    normalize: bool = True


def read_pooling(directory: Path, runner: Literal["auto", "generate", "pooling"]) -> Pooling | None:
    """The pooling of an embedding model, or None for a model that only generates.

    ``runner`` "pooling" makes an embedding model of one without such files: last token, normalized.

    Raises:
        ConfigError: the files ask for a pooling that is not implemented; the text names it.
        CheckpointError: a file is missing or broken.
    """
    if runner == "generate":
        return None
    file = directory / MODULES_FILE
    if not file.exists():
        return Pooling() if runner == "pooling" else None
    normalize, pooled = False, False
    for module in _modules(file):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            _check_pooling(directory / str(module.get("path", "")) / "config.json")
            pooled = True
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise ConfigError(f"{file}: the module {kind} is not supported (--runner generate leaves it out)")
    if not pooled:
        raise ConfigError(f"{file} names no pooling (--runner generate serves the model without embeddings)")
    return Pooling(normalize)


def _modules(file: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{file} must hold a list of objects")
    return modules


def _check_pooling(file: Path) -> None:
    config = read_json(file)
    modes = [
        name.removeprefix("pooling_mode_") for name, on in config.items() if on is True and "mode" in name
    ]
    if isinstance(config.get("pooling_mode"), str):  # newer files
        modes.append(config["pooling_mode"])
    if modes != ["lasttoken"]:
        shown = ", ".join(modes) or "none"
        raise ConfigError(f"{file}: only pooling of the last token is supported, not {shown}")
