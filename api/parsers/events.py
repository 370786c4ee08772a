"""What parsers find in an answer, in the order of the text.

A parser reads text in pieces and gives events; how the text was cut into pieces changes nothing but how the
texts of neighbouring events are cut.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of the tool ``name`` begins. Parsers give no ``id``: who reads the answer makes one."""

    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the last call's arguments: JSON text, as good as the model wrote it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The last call has ended. It is not ``complete`` where its arguments were cut off."""

    complete: bool = True


Event = Content | Reasoning | CallStart | CallArguments | CallEnd

Parse = Generator[Event | None, None, T]
"""A parser in the making: it gives events, and None where it needs more text."""


class Parser(Protocol):
    """Reads one answer."""

    def feed(self, text: str) -> list[Event]:
        """Reads more of the answer; gives what has become certain."""
        ...

    def finish(self) -> list[Event]:
        """Says that the answer has ended; gives the rest. It is the last call."""
        ...
