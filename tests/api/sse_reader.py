"""Reads server-sent events strictly: what is not exactly in the agreed framing is an error."""

from __future__ import annotations

import json
from typing import Any


def read_events(body: str) -> list[dict[str, Any]]:
    """The JSON of all events; the last one must be ``[DONE]``, comments are left out."""
    assert body.endswith("\n\n") and "\r" not in body
    events = []
    for block in body[:-2].split("\n\n"):
        if block.startswith(": "):
            continue
        assert block.startswith("data: ") and "\n" not in block, block
        events.append(block.removeprefix("data: "))
    assert events[-1] == "[DONE]" and "[DONE]" not in events[:-1]
    return [json.loads(event) for event in events[:-1]]


def texts(chunks: list[dict[str, Any]]) -> dict[int, str]:
    """Text of each choice, put together."""
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            new = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            found[choice["index"]] = found.get(choice["index"], "") + new
    return found
