"""The two files of a batch: requests in, answers out, as OpenAI's batch format has them.

    in:   {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    out:  {"id": ..., "custom_id": "a", "response": {"status_code", "request_id", "body"}, "error": null}

Where a request fails, ``body`` is null and ``error`` is the body that a client would have got.

Answers are appended as they come, and put into the order of the requests at the end. So a run that was
interrupted has lost nothing: the next one keeps what is answered and does the rest.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vllm_jax.errors import ConfigError

_MOST_NAMED = 5
"""Bad lines that are named."""
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that say nothing about the request itself: the next run asks again."""


@dataclass(frozen=True)
class BatchRequest:
    """One line of the input."""

    custom_id: str
    method: Any
    url: Any
    body: Any


def read_requests(path: Path) -> Iterator[BatchRequest]:
    """The requests of an input file, line by line; a file that was checked before.

    Raises:
        ConfigError: the file cannot be read.
    """
    for _, row in _rows(path, "--input-file"):
        assert isinstance(row, dict)
        yield BatchRequest(row["custom_id"], row.get("method"), row.get("url"), row.get("body"))


def check_requests(path: Path) -> list[str]:
    """All custom ids of an input file, in its order.

    Raises:
        ConfigError: a line has no answerable place in the output: it is no JSON object, or has no
            ``custom_id`` of its own. Whatever else may be wrong with a line is answered in the output.
    """
    seen: dict[str, int] = {}
    bad: list[str] = []
    for number, row in _rows(path, "--input-file"):
        custom_id = row.get("custom_id") if isinstance(row, dict) else None
        if not isinstance(row, dict):
            bad.append(f"line {number} is no JSON object")
        elif not isinstance(custom_id, str) or not custom_id:
            bad.append(f"line {number} has no custom_id")
        elif custom_id in seen:
            bad.append(f"line {number} has the custom_id of line {seen[custom_id]}, {custom_id!r}")
        else:
            seen[custom_id] = number
    if bad:
        more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        raise ConfigError(f"{path}: {'; '.join(bad[:_MOST_NAMED])}{more}. Nothing has been run")
    return list(seen)


class BatchOutput:
    """The output file. ``done`` are the custom ids that need no further answer.

    Args:
        path: the file; where it is there already, its answers are kept.
        order: custom ids of the input.

    Raises:
        ConfigError: the file cannot be written, or answers another input.
    """

    def __init__(self, path: Path, order: list[str]):
        self._path = path
        self._order = {custom_id: i for i, custom_id in enumerate(order)}
        self.done: set[str] = set()
        if path.exists():
            self._keep_answers()
        try:
            self._file: IO[str] = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output-file {path}: {error.strerror}") from None

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends an answer; it is the operating system's when this returns."""
        self._file.write(_json_line(line) + "\n")
        self._file.flush()
        self.done.add(line["custom_id"])

    def close(self, *, sort: bool) -> None:
        """Closes the file; with ``sort``, puts its lines into the input's order first."""
        os.fsync(self._file.fileno())
        self._file.close()
        if sort:
            lines = [text for _, text in sorted(self._read(), key=lambda pair: self._order[pair[0]])]
            self._replace(lines)

    def _keep_answers(self) -> None:
        kept: dict[str, str] = {}
        strangers = []
        for custom_id, text in self._read():
            if custom_id not in self._order:
                strangers.append(custom_id)
            elif _is_final(json.loads(text)):
                kept[custom_id] = text
        if strangers:
            raise ConfigError(
                f"--output-file {self._path} answers another input ({strangers[0]!r} is not in this one): "
                "name another file, or start anew with --overwrite"
            )
        self._replace(list(kept.values()))
        self.done = set(kept)

    def _read(self) -> list[tuple[str, str]]:
        """Custom id and text of every whole line; a last line that was torn off is left out."""
        found = []
        text = self._path.read_text(encoding="utf-8", errors="replace")
        for line in text[: text.rfind("\n") + 1].split("\n"):
            if not line.strip():
                continue
            answer = _parsed(line)
            custom_id = answer.get("custom_id") if isinstance(answer, dict) else None
            if not isinstance(custom_id, str):
                raise ConfigError(
                    f"--output-file {self._path} is there and holds no answers of a batch: name another "
                    "file, or start anew with --overwrite"
                )
            found.append((custom_id, line))
        return found

    def _replace(self, lines: list[str]) -> None:
        """Writes the file anew, all or nothing."""
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self._path.parent, prefix=self._path.name, delete=False
            ) as file:
                file.writelines(line + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(file.name, self._path.stat().st_mode)
            os.replace(file.name, self._path)
        except OSError as error:
            raise ConfigError(f"--output-file {self._path}: {error.strerror}") from None


def _is_final(line: Mapping[str, Any]) -> bool:
    """Whether asking again would give the same."""
    response = line.get("response")
    return isinstance(response, dict) and response.get("status_code") not in _TRY_AGAIN


def _rows(path: Path, flag: str) -> Iterator[tuple[int, Any]]:
    """Line number and content of every line that is not blank; None where it is no JSON."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield number, _parsed(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{flag} {path} is not UTF-8: {error}") from None
    except OSError as error:
        raise ConfigError(f"{flag} {path}: {error.strerror}") from None


def _parsed(text: str) -> Any:
    """The content of a line; None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_line(line: Mapping[str, Any]) -> str:
    """JSON in readable characters, unless one is a half that UTF-8 cannot write."""
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(line)
    return text
