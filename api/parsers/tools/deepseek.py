"""DeepSeek's formats.

V3, R1-0528:
    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Roma"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

V3.1 and later:
    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Roma"}<｜tool▁call▁end｜>…

Sources: the chat templates of deepseek-ai/DeepSeek-V3-0324 and DeepSeek-R1-0528, and the model card of
DeepSeek-V3.1.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from api.parsers.call_tags import CallForm, Tag, listed, tag, triggered
from api.parsers.events import CallEnd, CallStart, Content, Parse
from api.parsers.json_calls import MAX_NAME, arguments
from api.parsers.source import Source

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
MARKERS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR)
FENCE = "```"


def strict(calls: Sequence[CallForm], parallel: bool) -> Tag:
    """The form of answers whose calls are all as they should be, of either kind."""
    single: list[Tag] = []
    for call in calls:
        fenced = f"{CALL_BEGIN}function{SEPARATOR}{call.name}\n{FENCE}json\n"
        single += [
            tag(f"{CALL_BEGIN}{call.name}{SEPARATOR}", call.arguments, CALL_END),
            tag(fenced, call.arguments, f"\n{FENCE}{CALL_END}"),
        ]
    rows = [tag(CALLS_BEGIN, listed(single, separator, parallel), CALLS_END) for separator in ("", "\n")]
    return triggered([CALLS_BEGIN, CALL_BEGIN], [*rows[: 1 + parallel], *single], parallel)


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer. A block that is no call is content, as it stands."""
    while marker := (yield from source.until([CALLS_BEGIN, CALLS_END, CALL_BEGIN])):
        if marker != CALL_BEGIN:
            continue
        source.mark()
        if not (yield from _call(source)):
            source.rewind()
            yield Content(CALL_BEGIN)


def _call(source: Source) -> Parse[bool]:
    """Reads what is behind the mark of a call. Returns whether it is one; if not, nothing was given."""
    name = yield from source.text_before(SEPARATOR, CALL_END, CALL_BEGIN, limit=MAX_NAME)
    if name is None or not (yield from source.accept(SEPARATOR)):
        return False
    if name.strip() == "function":
        name = yield from source.text_before("\n", FENCE, "{", CALL_END, limit=MAX_NAME)
    if not name or not (name := name.strip()):
        return False
    yield from source.skip_space()
    fenced = yield from source.accept(f"{FENCE}json", FENCE)
    yield from source.skip_space()
    if not (yield from source.at("{")):
        return False
    source.forget()
    yield CallStart(name)
    complete = yield from arguments(source, CALL_END)
    yield CallEnd(complete)
    yield from source.skip_space()
    if fenced:
        yield from source.accept(FENCE)
    yield from source.skip_space()
    yield from source.accept(CALL_END)
    return True
