"""One answer's parser: reasoning first, then calls in what is left, then white space tidied up."""

from __future__ import annotations

from collections.abc import Sequence

from api.parsers.events import CallStart, Content, Event, Parser
from api.parsers.source import SPACE


class AnswerParser:
    """Feeds an answer through one parser after another: each reads the content that the one before left."""

    def __init__(self, stages: Sequence[Parser]):
        self._stages = list(stages)
        self._called = False
        self._space: list[str] = []  # pieces of white space that may yet turn out to stand before a call

    def feed(self, text: str) -> list[Event]:
        """Reads more of the answer."""
        return self._tidy(self._through(self._stages, [Content(text)] if text else []))

    def finish(self) -> list[Event]:
        """Gives the rest."""
        events: list[Event] = []
        for i, stage in enumerate(self._stages):
            events += self._tidy(self._through(self._stages[i + 1 :], stage.finish()))
        if self._space and not self._called:
            events.append(Content("".join(self._space)))
        return events

    @staticmethod
    def _through(stages: Sequence[Parser], events: list[Event]) -> list[Event]:
        for stage in stages:
            read: list[Event] = []
            for event in events:
                read += stage.feed(event.text) if isinstance(event, Content) else [event]
            events = read
        return events

    def _tidy(self, events: list[Event]) -> list[Event]:
        """Drops the white space around calls: it belongs to their format, not to the text."""
        tidied: list[Event] = []
        for event in events:
            if isinstance(event, Content):
                if kept := event.text.rstrip(SPACE):
                    tidied.append(Content("".join([*self._space, kept])))
                    self._space.clear()
                self._space.append(event.text[len(kept) :])
                continue
            if isinstance(event, CallStart):
                self._called = True
                self._space.clear()
            tidied.append(event)
        return tidied
