"""Text that arrives in pieces, for parsers that are written as if all of it were there.

A parser is a generator over a :class:`Source`: it yields events, and None to wait for more text. Every method
here decides only when no further text could change the decision, which is why a parser cannot see where the
pieces were cut. Each character is looked at a bounded number of times; no regular expression sees the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from api.parsers.events import Content, Event, Parse

SPACE = " \t\r\n"
"""White space of JSON."""
CHUNK = 4096
"""Characters that a parser gets at once at most."""


class Source:
    """The text not read yet, and behind a :meth:`mark` what has been read since."""

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._mark: int | None = None
        self._ended = False

    # --- for the driver ---------------------------------------------------------------------------

    def push(self, text: str) -> None:
        """Appends a piece."""
        kept = self._position if self._mark is None else self._mark
        self._text = self._text[kept:] + text
        self._position -= kept
        if self._mark is not None:
            self._mark = 0

    def end(self) -> None:
        """Says that no more will come."""
        self._ended = True

    # --- reading ----------------------------------------------------------------------------------

    @property
    def rest(self) -> str:
        """What is there and not read."""
        return self._text[self._position :]

    def take(self, count: int) -> str:
        """Reads up to ``count`` characters of what is there."""
        start = self._position
        self._position = min(start + count, len(self._text))
        return self._text[start : self._position]

    def more(self) -> Parse[bool]:
        """Waits for a further piece. Returns False at the end: nothing more will come."""
        if self._ended:
            return False
        yield None
        return True

    def peek(self) -> Parse[str]:
        """The next character, or "" at the end."""
        while self._position == len(self._text) and not self._ended:
            yield None
        return self._text[self._position : self._position + 1]

    def at(self, literal: str) -> Parse[bool]:
        """Whether ``literal`` comes next. Reads nothing."""
        while True:
            there = len(self._text) - self._position
            if there >= len(literal) or self._ended:
                return self._text.startswith(literal, self._position)
            if not literal.startswith(self.rest):
                return False
            yield None

    def accept(self, *literals: str) -> Parse[str]:
        """Reads the first of ``literals`` that comes next and returns it, or "" if none does."""
        for literal in literals:
            if (yield from self.at(literal)):
                return self.take(len(literal))
        return ""

    def skip_space(self) -> Parse[str]:
        """Reads white space; returns it."""
        skipped = ""
        while True:
            rest = self.rest
            skipped += self.take(len(rest) - len(rest.lstrip(SPACE)))
            if self.rest or self._ended:
                return skipped
            yield None

    def until(self, markers: Sequence[str], event: Callable[[str], Event] = Content) -> Parse[str]:
        """Gives the text before the first of ``markers`` as events, as soon as it is certain.

        Reads the marker too and returns it, or "" if the text ends without one. No marker may begin inside of
        another.
        """
        while True:
            position, marker = find_first(self.rest, markers)
            if marker:
                if text := self.take(position):
                    yield event(text)
                return self.take(len(marker))
            if text := self.take(len(self.rest) - (0 if self._ended else partial_marker(self.rest, markers))):
                yield event(text)
            if self._ended:
                return ""
            yield None

    def text_before(self, *markers: str, limit: int = 1 << 40) -> Parse[str | None]:
        """Reads the text before the first of ``markers``, which stays.

        Returns None, and reads nothing, if there is none before the end or behind more than ``limit``
        characters.
        """
        searched = 0
        longest = max(map(len, markers))
        while True:
            rest = self.rest
            position, marker = find_first(rest, markers, searched)
            if marker:
                return self.take(position) if position <= limit else None
            searched = max(0, len(rest) - longest + 1)
            if searched > limit or not (yield from self.more()):
                return None

    def remainder(self, event: Callable[[str], Event] = Content) -> Parse[None]:
        """Gives all the rest as events."""
        yield from self.until((), event)

    # --- reading on trial -------------------------------------------------------------------------

    def mark(self) -> None:
        """Remembers this place, until :meth:`rewind` or :meth:`forget`."""
        self._mark = self._position

    def rewind(self) -> None:
        """Goes back to the marked place."""
        assert self._mark is not None
        self._position, self._mark = self._mark, None

    def forget(self) -> None:
        """Forgets the marked place."""
        self._mark = None


class SourceParser:
    """A :class:`~api.parsers.events.Parser` made of a generator over a source."""

    def __init__(self, parse: Callable[[Source], Parse[None]]):
        self._source = Source()
        self._running = parse(self._source)

    def feed(self, text: str) -> list[Event]:
        """Reads more of the answer."""
        events = []
        for start in range(0, len(text), CHUNK):  # what is there is copied here and there: keep it short
            self._source.push(text[start : start + CHUNK])
            events += self._advance()
        return events

    def finish(self) -> list[Event]:
        """Gives the rest."""
        self._source.end()
        return self._advance()

    def _advance(self) -> list[Event]:
        events = []
        for event in self._running:
            if event is None:
                break
            events.append(event)
        return events


def find_first(text: str, markers: Sequence[str], start: int = 0) -> tuple[int, str]:
    """Where the first of ``markers`` begins, and which it is; (len(text), "") if there is none."""
    best, found = len(text), ""
    for marker in markers:
        position = text.find(marker, start, min(len(text), best + len(marker)))
        if position != -1 and position < best:
            best, found = position, marker
    return best, found


def partial_marker(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that one of ``markers`` begins with, and is longer than."""
    longest = 0
    for marker in markers:
        for length in range(min(len(marker) - 1, len(text)), longest, -1):
            if marker.startswith(text[len(text) - length :]):
                longest = length
                break
    return longest
