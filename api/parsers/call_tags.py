"""Grammars of answers in which every call follows its tool's schema, and everything else is free.

Knows the formats of structural tags (``vllm_jax/structured_output/structural_tag.py``) as far as the tool
formats put them together. Does not know how any model writes its calls: the files in ``tools/`` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Tag = dict[str, Any]

SPACE = r"[ \t\r\n]*"


@dataclass(frozen=True, slots=True)
class CallForm:
    """A tool that may be called: ``arguments`` is the format of its arguments."""

    name: str
    arguments: Tag


MakeTag = Callable[[Sequence[CallForm], bool], Tag]
"""Makes the tag of whole answers; the flag says whether there may be several calls."""


def const(text: str) -> Tag:
    """Exactly ``text``."""
    return {"type": "const_string", "value": text}


def tag(begin: str, content: Tag, end: str) -> Tag:
    """``content`` between two texts."""
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def sequence(*elements: Tag) -> Tag:
    """One behind the other."""
    return {"type": "sequence", "elements": list(elements)}


def triggered(triggers: Sequence[str], tags: Sequence[Tag], parallel: bool) -> Tag:
    """Free text in which each of ``triggers`` always begins one of ``tags``."""
    return {
        "type": "triggered_tags",
        "triggers": list(triggers),
        "tags": list(tags),
        "stop_after_first": not parallel,
    }


def listed(tags: Sequence[Tag], separator: str, parallel: bool) -> Tag:
    """One of ``tags`` or several, and nothing else."""
    return {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": separator,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }


def objects(calls: Sequence[CallForm], arguments: str, begin: str = "", end: str = "") -> list[Tag]:
    """``{"name": "…", "<arguments>": {…}}`` for each of ``calls``, between ``begin`` and ``end``."""
    return [
        tag(f'{begin}{{"name": "{call.name}", "{arguments}": ', call.arguments, f"}}{end}") for call in calls
    ]


def only_calls(
    calls: Sequence[CallForm],
    arguments: str,
    parallel: bool,
    *,
    begins: Sequence[str],
    separator: str,
    end: str = "",
    ignored: str = "",
) -> Tag:
    """Calls from the beginning to the end, or free text that does not begin as a call would.

    ``ignored`` is an expression for what the parser skips in front of one. A beginning and the name behind it
    are one text, because it is only there that they are told from free text.
    """
    first = [tag for begin in begins for tag in objects(calls, arguments, begin)]
    elements: list[Tag] = [{"type": "or", "elements": first}]
    if parallel:
        more = {"type": "or", "elements": objects(calls, arguments, separator)}
        elements.append({"type": "star", "content": more})
    if end:
        elements.append(const(end))
    call = rf'{SPACE}{ignored}{SPACE}(\[{SPACE})?\{{(.|\n)*"name"{SPACE}:(.|\n)*'
    return {"type": "or", "elements": [sequence(*elements), {"type": "any_text", "unlike": call}]}
