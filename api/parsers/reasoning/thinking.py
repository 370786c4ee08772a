"""What the formats that put reasoning between two marks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from api.parsers.events import Content, Parse, Reasoning
from api.parsers.source import SPACE, Source

Opening = Literal["open", "closed", "unsaid"]
"""Whether the prompt has begun the reasoning, has ended it, or says nothing of it."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The two marks. ``assumed``: an answer begins with reasoning although no mark says so."""

    start: str
    end: str
    assumed: bool = False

    def opening(self, prompt: str) -> Opening:
        """Reads where an answer begins from the end of its prompt."""
        end = prompt.rstrip(SPACE)
        if end.endswith(self.start):
            return "open"
        if end.endswith(self.end):
            return "closed"
        return "open" if self.assumed else "unsaid"

    def opening_within(self, begun: str) -> Opening:
        """Reads it from the message that the answer continues."""
        started, ended = begun.rfind(self.start), begun.rfind(self.end)
        if started != ended:  # one of them is there
            return "open" if started > ended else "closed"
        return "closed" if begun.strip(SPACE) else self.opening("")


def thinking(source: Source, marks: Marks, opening: Opening) -> Parse[None]:
    """Reads an answer: reasoning up to the end mark, content behind it; white space around them is dropped.

    Where the prompt says nothing, only an answer that begins with the start mark has reasoning.
    """
    if opening == "closed":
        yield from source.remainder()
        return
    space = yield from source.skip_space()
    marked = yield from source.accept(marks.start)
    if opening == "unsaid" and not marked:
        if space:
            yield Content(space)
        yield from source.remainder()
        return
    yield from source.skip_space()
    held: list[str] = []  # pieces of white space that may turn out to stand before the end mark
    until = source.until([marks.end], Reasoning)
    while True:
        try:
            event = next(until)
        except StopIteration:
            break
        if event is None:
            yield None
            continue
        if kept := event.text.rstrip(SPACE):  # type: ignore[union-attr]
            yield Reasoning("".join([*held, kept]))
            held.clear()
        held.append(event.text[len(kept) :])  # type: ignore[union-attr]
    yield from source.skip_space()
    yield from source.remainder()
