"""gpt-oss: calls are messages to ``functions.NAME``. See :mod:`api.parsers.harmony`.

The format is one of whole answers: the messages of the channel "analysis" are told apart as reasoning, with
or without a reasoning parser.
"""

from __future__ import annotations

from collections.abc import Container

from api.parsers.events import Parse
from api.parsers.harmony import MARKERS, harmony
from api.parsers.source import Source

__all__ = ["MARKERS", "parse"]


def parse(source: Source, names: Container[str]) -> Parse[None]:
    """Reads an answer."""
    yield from harmony(source)
