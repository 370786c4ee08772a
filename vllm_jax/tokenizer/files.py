"""The files beside a vocabulary: config, special tokens, chat templates.

Knows their names and formats in a Hugging Face directory. Does not know the vocabulary itself, runs no
code from the directory (``auto_map`` is only data here) and opens nothing outside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_jax.errors import CheckpointError

_NO_LIMIT = 2**31
"""Lengths from here on mean "no limit" (the usual filler is 10**30)."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The side files of a tokenizer directory; each is empty where there is no such file."""

    directory: Path
    config: dict[str, Any]
    special_tokens_map: dict[str, Any]
    added_tokens: dict[str, Any]
    chat_templates: dict[str, str]

    @classmethod
    def read(cls, directory: Path) -> TokenizerFiles:
        """Reads the side files of ``directory``.

        Raises:
            CheckpointError: there is no such directory, or a file is not what its name says.
        """
        if not directory.is_dir():
            raise CheckpointError(f"the tokenizer directory {directory} does not exist")
        config = read_json_object(directory / "tokenizer_config.json")
        return cls(
            directory=directory,
            config=config,
            special_tokens_map=read_json_object(directory / "special_tokens_map.json"),
            added_tokens=read_json_object(directory / "added_tokens.json"),
            chat_templates=_read_chat_templates(directory, config),
        )

    @property
    def max_length(self) -> int | None:
        """The longest sequence the config states, in tokens, or None."""
        stated = self.config.get("model_max_length", self.config.get("max_len"))
        if isinstance(stated, (int, float)) and 0 < stated < _NO_LIMIT:
            return int(stated)
        return None

    @property
    def class_name(self) -> str:
        """The class that the config names, or transformers' general one."""
        stated = self.config.get("tokenizer_class")
        return stated if isinstance(stated, str) and stated else "PreTrainedTokenizerFast"


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns the object in ``path``, or an empty one where there is no such file.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def one_line(error: BaseException, limit: int = 300) -> str:
    """Returns the error's text on one line of at most ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _read_chat_templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Returns templates by name. Template files, where there are any, replace those in the config."""
    paths = {p.stem: p for p in sorted((directory / "additional_chat_templates").glob("*.jinja"))}
    if (directory / "chat_template.jinja").is_file():
        paths["default"] = directory / "chat_template.jinja"
    if paths:
        try:
            return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read a chat template in {directory}: {one_line(error)}") from error
    stated = config.get("chat_template")
    if stated is None:
        return {}
    if isinstance(stated, str):
        return {"default": stated}
    if isinstance(stated, list):
        try:
            stated = {entry["name"]: entry["template"] for entry in stated}
        except (TypeError, KeyError):
            stated = None
    if isinstance(stated, dict) and all(isinstance(text, str) for text in stated.values()):
        return stated
    raise CheckpointError(
        f"chat_template in {directory / 'tokenizer_config.json'} is neither a text nor a list of "
        '{"name", "template"} objects'
    )
