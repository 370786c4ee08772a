"""Mistral's formats.

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Roma"}}]       tokenizers v3 to v7
    [TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Roma"}             v11 and v13

The second kind repeats [TOOL_CALLS] for every call; [CALL_ID] may be missing, and in some fine-tunes [ARGS]
too. Source: the tokenizers and tests of github.com/mistralai/mistral-common, and the chat templates of
Mistral-7B-Instruct-v0.3 and Mistral-Small-3.2-24B-Instruct-2506.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from api.parsers.call_tags import CallForm, Tag, const, listed, objects, sequence, tag, triggered
from api.parsers.events import CallEnd, CallStart, Content, Parse
from api.parsers.json_calls import MAX_NAME, arguments, call_list
from api.parsers.source import Source

CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
MARKERS = (CALLS, CALL_ID, ARGS)


def strict(calls: Sequence[CallForm], parallel: bool) -> Tag:
    """The form of answers whose calls are all as they should be, of either kind."""
    space: Tag = {"type": "regex", "pattern": " ?"}
    array = sequence(space, const("["), listed(objects(calls, "arguments"), ", ", parallel), const("]"))
    tags = [tag(CALLS, array, "")]
    for call in calls:
        call_id: Tag = {"type": "regex", "pattern": "[a-zA-Z0-9]{1,64}"}
        named = sequence(call_id, const(ARGS), call.arguments)
        tags += [
            tag(f"{CALLS}{call.name}{ARGS}", call.arguments, ""),
            tag(f"{CALLS}{call.name}{CALL_ID}", named, ""),
        ]
    return triggered([CALLS], tags, parallel)


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer. What follows [TOOL_CALLS] and is no call is content, as it stands."""
    while (yield from source.until([CALLS])):
        source.mark()
        yield from source.skip_space()
        if (yield from source.peek()) in ("[", "{"):
            called = yield from call_list(source)
        else:
            called = yield from _named_call(source)
        source.rewind()
        if not called:
            yield Content(CALLS)


def _named_call(source: Source) -> Parse[bool]:
    """Reads ``name[ARGS]{...}``. Returns whether it is one; if not, nothing was given."""
    name = yield from source.text_before(CALL_ID, ARGS, "{", CALLS, limit=MAX_NAME)
    if not name or not (name := name.strip()):
        return False
    if (yield from source.accept(CALL_ID)):  # the client gets an id of the server's making
        yield from source.text_before(ARGS, "{", limit=MAX_NAME)
    yield from source.accept(ARGS)
    yield from source.skip_space()
    if not (yield from source.at("{")):
        return False
    yield CallStart(name)
    complete = yield from arguments(source)
    yield CallEnd(complete)
    source.mark()
    return True
