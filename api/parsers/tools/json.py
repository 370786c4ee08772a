"""The default format, for models that were taught none: a bare JSON array of calls.

    [{"name": "get_weather", "arguments": {"city": "Roma"}}]

It is what the built-in tools prompt (:mod:`vllm_jax.tokenizer.tools_prompt`) asks for. One object without the
array and a ```json fence around it are taken too. The answer must begin with it; anything else is content.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from api.parsers.call_tags import CallForm, Tag, only_calls
from api.parsers.events import Parse
from api.parsers.json_calls import call_list
from api.parsers.source import Source

MARKERS = ()
FENCE = "```"


def strict(calls: Sequence[CallForm], parallel: bool) -> Tag:
    """The form of answers whose calls are all as they should be."""
    return only_calls(
        calls, "arguments", parallel, begins=["["], separator=", ", end="]", ignored=f"({FENCE}(json)?)?"
    )


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer."""
    source.mark()
    yield from source.skip_space()
    fenced = yield from source.accept(f"{FENCE}json", FENCE)
    yield from source.skip_space()
    if (yield from call_list(source, known=names)) and fenced:
        source.rewind()
        source.mark()
        yield from source.skip_space()
        if (yield from source.accept(FENCE)):
            source.mark()
    source.rewind()
    yield from source.remainder()
