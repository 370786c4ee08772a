"""Hermes' format, which Qwen 2.5 and Qwen 3 share.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Roma"}}
    </tool_call>

Sources: github.com/NousResearch/Hermes-Function-Calling; the chat templates of Qwen/Qwen2.5-7B-Instruct and
Qwen/Qwen3-8B.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from api.parsers.call_tags import CallForm, Tag, objects, triggered
from api.parsers.events import Content, Parse
from api.parsers.json_calls import call_object
from api.parsers.source import Source

START, END = "<tool_call>", "</tool_call>"
MARKERS = (START, END)


def strict(calls: Sequence[CallForm], parallel: bool) -> Tag:
    """The form of answers whose calls are all as they should be."""
    return triggered([START], objects(calls, "arguments", f"{START}\n", f"\n{END}"), parallel)


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer. A block that is no call is content, as it stands."""
    while (yield from source.until([START])):
        source.mark()
        yield from source.skip_space()
        if not (yield from call_object(source, stop=END)):
            source.rewind()
            yield Content(START)
            continue
        source.forget()
        yield from source.skip_space()
        yield from source.accept("}")  # one bracket too many is a common slip
        yield from source.skip_space()
        yield from source.accept(END)
