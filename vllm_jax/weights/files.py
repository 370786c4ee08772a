"""The JSON files of a checkpoint directory, read with errors that name the file.

Knows how to read ``config.json`` and ``generation_config.json`` and to lay overrides over them. Does not
know what their fields mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_jax.errors import CheckpointError

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: the file is missing, unreadable, not UTF-8, not JSON, or not an object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{file} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not {type(value).__name__}")
    return value


def read_config(directory: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The model's ``config.json`` with ``overrides`` laid over its top level.

    Raises:
        CheckpointError: as :func:`read_json`.
    """
    return {**read_json(directory / CONFIG_FILE), **(overrides or {})}


def read_generation_config(directory: Path) -> dict[str, Any]:
    """The model's ``generation_config.json``, or an empty dict where there is none.

    Raises:
        CheckpointError: the file is there and broken.
    """
    file = directory / GENERATION_CONFIG_FILE
    return read_json(file) if file.exists() else {}


def listed(items: Sequence[str], limit: int = 8) -> str:
    """The items in one line, the first ``limit`` of them and a count of the rest."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
