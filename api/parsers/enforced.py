"""Answers whose form a grammar has enforced: ``tool_choice`` "required" and by name.

Required: ``[{"name": ..., "parameters": {...}}, ...]``. By name: the arguments and nothing else. Where a
request asks for JSON of its own and leaves calls to the model: either that JSON, or the array.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from api.parsers.events import CallEnd, CallStart, Parse
from api.parsers.json_calls import arguments, call_list
from api.parsers.source import Source


def required_calls(names: Container[str]) -> Callable[[Source], Parse[None]]:
    """Makes the parser of an array of calls. What is cut off before a call is known gives nothing."""

    def parse(source: Source) -> Parse[None]:
        yield from source.skip_space()
        yield from call_list(source, known=names)

    return parse


def answer_or_calls(names: Container[str]) -> Callable[[Source], Parse[None]]:
    """Makes the parser of an array of calls or, where there is none, of content."""

    def parse(source: Source) -> Parse[None]:
        source.mark()
        if (yield from source.at("[")):
            yield from call_list(source, known=names)
        source.rewind()
        yield from source.remainder()

    return parse


def named_call(name: str) -> Callable[[Source], Parse[None]]:
    """Makes the parser of one call's arguments."""

    def parse(source: Source) -> Parse[None]:
        yield from source.skip_space()
        if (yield from source.peek()):
            yield CallStart(name)
            yield CallEnd((yield from arguments(source)))

    return parse
