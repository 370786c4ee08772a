"""Prompts from a local file, in the two layouts that vLLM's benchmarks read as well.

    custom    a JSON object a line: {"prompt": text}, perhaps with "output_tokens"
    sharegpt  one JSON list: [{"conversations": [{"value": prompt}, {"value": answer}, ...]}, ...]

Knows the layouts and which lengths are of use; the order is the caller's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from api.bench.texts import TextMaker
from vllm_jax.errors import ConfigError

# Of a ShareGPT conversation, as in vLLM: what is outside is left out, so that figures can be compared.
_LEAST_TOKENS = 4
_MOST_PROMPT_TOKENS = 1024
_MOST_TOKENS = 2048


def read_custom(path: str, output_len: int) -> list[tuple[str, int]]:
    """Prompts and the tokens to ask for: the line's own number, or ``output_len``. Raises ConfigError."""
    found = []
    for number, text in enumerate(_read(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            prompt, tokens = row["prompt"], int(row.get("output_tokens", output_len))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise _wrong(path, f"line {number} has no prompt: {type(error).__name__}: {error}") from None
        if not isinstance(prompt, str) or tokens < 1:
            raise _wrong(path, f'line {number}: "prompt" must be text and "output_tokens" at least 1')
        found.append((prompt, tokens))
    return _some(path, found)


def read_sharegpt(path: str, output_len: int | None, texts: TextMaker) -> list[tuple[str, int]]:
    """First turns, and as many tokens as the second one has (or ``output_len``). Raises ConfigError."""
    try:
        rows = json.loads(_read(path))
        pairs = [(row["conversations"][0]["value"], row["conversations"][1]["value"]) for row in _long(rows)]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _wrong(path, f"it is no list of conversations: {type(error).__name__}: {error}") from None
    found = []
    for prompt, answer in pairs:
        length = _length(prompt, texts)
        tokens = _length(answer, texts) if output_len is None else output_len
        long_enough = length >= _LEAST_TOKENS and (output_len is not None or tokens >= _LEAST_TOKENS)
        if long_enough and length <= _MOST_PROMPT_TOKENS and length + tokens <= _MOST_TOKENS:
            found.append((prompt, tokens))
    return _some(path, found)


def _long(rows: list[Any]) -> list[Any]:
    return [row for row in rows if len(row["conversations"]) >= 2]


def _length(text: str, texts: TextMaker) -> int:
    count = texts.count(text)
    return len(text.split()) if count is None else count


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--dataset-path {path}: {error}") from None


def _wrong(path: str, why: str) -> ConfigError:
    return ConfigError(f"--dataset-path {path}: {why}")


def _some(path: str, found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    if not found:
        raise _wrong(path, "it has no requests of a useful length")
    return found
