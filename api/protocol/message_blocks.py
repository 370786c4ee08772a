"""The keys of content blocks and tools of Anthropic's API, and the ones that nobody knows.

Checked where unknown fields are reported; what the values must be is checked where they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_BLOCKS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type", "text", "cache_control", "citations"}),
    "tool_use": frozenset({"type", "id", "name", "input", "cache_control", "caller", "toolset_name"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error", "cache_control", "toolset_name"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
}
"""Keys of blocks by type. ``cache_control``, ``citations``, ``caller``, ``toolset_name``, ``signature`` and
``data`` change nothing: they tell of what other servers have done or may do."""

_TOOL = frozenset(
    {
        "type", "name", "description", "input_schema", "strict",
        "allowed_callers", "cache_control", "defer_loading", "eager_input_streaming", "input_examples",
    }
)  # fmt: skip
"""Keys of a tool; the second line changes nothing."""

_TOOL_CHOICE = frozenset({"type", "name", "disable_parallel_tool_use"})


def unknown_keys(body: Any) -> Iterator[str]:
    """Where a request has a key that nobody knows: "messages[0].content[1].foo"."""
    if isinstance(body.system, list):
        yield from _of_blocks(body.system, "system")
    for i, message in enumerate(body.messages):
        where = f"messages[{i}]"
        yield from (f"{where}.{name}" for name in message.unknown)
        if isinstance(message.content, list):
            yield from _of_blocks(message.content, f"{where}.content")
    for i, tool in enumerate(body.tools or ()):
        yield from _of_keys(tool, _TOOL, f"tools[{i}]")
    yield from _of_keys(body.tool_choice or {}, _TOOL_CHOICE, "tool_choice")


def _of_blocks(blocks: Sequence[Any], where: str) -> Iterator[str]:
    for i, block in enumerate(blocks):
        kind = block.get("type") if isinstance(block, Mapping) else None
        if not isinstance(kind, str) or kind not in _BLOCKS:
            continue  # it is refused where it is read
        yield from _of_keys(block, _BLOCKS[kind], f"{where}[{i}]")
        if kind == "tool_result" and isinstance(block.get("content"), list):
            yield from _of_blocks(block["content"], f"{where}[{i}].content")


def _of_keys(given: Mapping[str, Any], known: frozenset[str], where: str) -> Iterator[str]:
    return (f"{where}.{name}" for name, value in given.items() if name not in known and value is not None)
