"""Calls written as JSON objects: ``{"name": ..., "arguments": {...}}``.

Knows JSON's outline (strings, brackets) and passes arguments on while they are written, character for
character: whether they are valid is for the client to see, as with OpenAI. Until the name is known nothing is
given out, so that what turns out to be no call can still become text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container

from api.parsers.events import CallArguments, CallEnd, CallStart, Parse
from api.parsers.source import SPACE, Source

ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
"""Both are in use: hermes and mistral say arguments, llama says parameters."""
MAX_NAME = 256
"""Characters of a tool's name at most, for it to be taken for one."""
_SCALAR_END = frozenset(",}]" + SPACE)

Known = Container[str] | None
"""Names that make an object a call; None: any."""


def call_object(source: Source, *, known: Known = None, stop: str = "") -> Parse[bool]:
    """Reads one object. Returns whether it is a call; if not, nothing was given and some of it was read.

    ``stop`` ends the call wherever it stands outside of a string: models forget brackets.
    """
    if not (yield from source.accept("{")):
        return False
    name: str | None = None
    early: str | None = None  # arguments that came before the name
    started = complete = others = closed = False
    while True:
        yield from source.skip_space()
        if (yield from source.accept("}")):
            closed = True
            break
        key = yield from string(source)
        yield from source.skip_space()
        if key is None or not (yield from source.accept(":")):
            break
        yield from source.skip_space()
        if key == "name" and name is None:
            name = yield from string(source)
            if name is None or not 0 < len(name) <= MAX_NAME or (known is not None and name not in known):
                return False
            if early is not None:
                yield CallStart(name)
                yield CallArguments(early)
                started = complete = True
        elif key in ARGUMENT_KEYS and early is None and not started:
            if name is None:
                early = yield from _whole_arguments(source, stop)
                if early is None:
                    return False
            else:
                yield CallStart(name)
                started = True
                complete = yield from arguments(source, stop)
        else:
            others = others or key != "type"
            yield from _whole_arguments(source, stop)
        yield from source.skip_space()
        if not (yield from source.accept(",")):
            closed = bool((yield from source.accept("}")))
            break
    if closed and not started and name is not None and not others:  # a tool without parameters
        yield CallStart(name)
        yield CallArguments("{}")
        started = complete = True
    if started:
        yield CallEnd(complete)
    return started


def call_list(source: Source, *, known: Known = None) -> Parse[bool]:
    """Reads ``[{...}, {...}]``, or ``{...}; {...}``. Returns whether the first element is a call.

    If it is not, nothing was given and some of it was read. Otherwise the source's mark is behind all calls:
    a later element that is none stays for the caller, and so does what follows the array.
    """
    in_array = bool((yield from source.accept("[")))
    yield from source.skip_space()
    if not (yield from call_object(source, known=known)):
        return False
    while True:
        source.mark()
        yield from source.skip_space()
        if in_array and (yield from source.accept("]")):
            source.mark()
            return True
        yield from source.accept(",", ";")
        yield from source.skip_space()
        if not (yield from call_object(source, known=known)):
            return True


def arguments(source: Source, stop: str = "") -> Parse[bool]:
    """Gives one value as the call's arguments, as it comes. Returns whether it came to its end.

    A string is the arguments' JSON text in quotes, and is unpacked; null stands for no arguments.
    """
    if (yield from source.peek()) in ("{", "["):
        return (yield from _brackets(source, stop, CallArguments))
    whole = yield from _whole_arguments(source, stop)
    if whole is None:
        return False
    yield CallArguments(whole)
    return True


def string(source: Source) -> Parse[str | None]:
    """Reads a string; returns what it says, or None if there is no valid one."""
    raw = yield from _raw_string(source)
    return _decoded(raw) if raw is not None else None


def _decoded(raw: str) -> str | None:
    try:
        value = json.loads(raw, strict=False)
        value.encode()  # no lone surrogate: the answer could not be sent
    except (ValueError, AttributeError):
        return None
    return value


def _raw_string(source: Source) -> Parse[str | None]:
    """Reads a string with its quotes; None if none begins here, or it does not end."""
    if not (yield from source.accept('"')):
        return None
    pieces = ['"']
    while (inside := (yield from source.text_before("\\", '"'))) is not None:
        pieces.append(inside + source.take(1))
        if pieces[-1].endswith('"'):
            return "".join(pieces)
        if not (yield from source.peek()):
            break
        pieces.append(source.take(1))
    return None


def _whole_arguments(source: Source, stop: str) -> Parse[str | None]:
    """Reads one value as arguments; None if it does not come to its end."""
    first = yield from source.peek()
    if first == '"':
        raw = yield from _raw_string(source)
        if raw is None:
            return None
        text = _decoded(raw)
        return raw if text is None else text
    if first in ("{", "["):
        pieces: list[str] = []
        ended = yield from _brackets(source, stop, pieces.append)
        return "".join(pieces) if ended else None
    scalar = yield from _scalar(source, stop)
    return "{}" if scalar in ("null", "") else scalar


def _scalar(source: Source, stop: str) -> Parse[str]:
    """Reads what is neither a string nor in brackets, up to what must follow it."""
    text = ""
    while (character := (yield from source.peek())) and character not in _SCALAR_END:
        if stop and character == stop[0] and (yield from source.at(stop)):
            break
        text += source.take(1)
    return text


def _brackets(source: Source, stop: str, give: Callable[[str], CallArguments | None]) -> Parse[bool]:
    """Reads an object or an array. ``give`` gets its text in pieces; what it returns is given on.

    Returns whether the brackets were closed: before the text's end, and before ``stop``, which is not read.
    """
    depth = 0
    in_string = escaped = False
    while True:
        rest, length, at_stop = source.rest, 0, False
        for character in rest:
            if in_string:
                if escaped:
                    escaped = False
                elif character == "\\":
                    escaped = True
                elif character == '"':
                    in_string = False
            elif character == '"':
                in_string = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
            elif stop and character == stop[0]:
                at_stop = True
                break
            length += 1
            if depth == 0:
                break
        if length and (event := give(source.take(length))) is not None:
            yield event
        if length and depth == 0:
            return True
        if not at_stop:
            if not (yield from source.more()):
                return False
        elif (yield from source.at(stop)):
            return False
        elif (event := give(source.take(1))) is not None:  # only looked like it
            yield event
