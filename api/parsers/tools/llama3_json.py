"""Llama 3.1, 3.2 and 3.3: bare JSON objects, several with ``;`` between them.

    {"name": "get_weather", "parameters": {"city": "Roma"}}

Some answers begin with <|python_tag|>. Sources: the chat template of meta-llama/Llama-3.1-8B-Instruct; the
"JSON based tool calling" section of Meta's Llama 3.1 prompt format documentation.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence

from api.parsers.call_tags import CallForm, Tag, only_calls
from api.parsers.events import Parse
from api.parsers.json_calls import call_list
from api.parsers.source import Source

PYTHON_TAG = "<|python_tag|>"
MARKERS = (PYTHON_TAG,)


def strict(calls: Sequence[CallForm], parallel: bool) -> Tag:
    """The form of answers whose calls are all as they should be."""
    ignored = f"({re.escape(PYTHON_TAG)})?"
    return only_calls(calls, "parameters", parallel, begins=["", PYTHON_TAG], separator="; ", ignored=ignored)


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer. What does not begin with a call of one of ``names`` is content."""
    source.mark()
    yield from source.skip_space()
    yield from source.accept(PYTHON_TAG)
    yield from source.skip_space()
    yield from call_list(source, known=names)
    source.rewind()
    yield from source.remainder()
