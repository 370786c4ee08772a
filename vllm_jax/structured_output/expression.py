"""Regular expressions as terminals of Lark. Knows what their classes stand for; does not know who asks."""

from __future__ import annotations

from llguidance import regex_to_lark

_ASCII_CLASSES = "dws"
"""``\\d``, ``\\w`` and ``\\s`` mean what they mean with Python's re.ASCII: nobody who writes ``\\d`` wants
Tibetan digits."""


def terminal(expression: str) -> str:
    """``expression``, which is not empty, between the slashes of Lark."""
    return f"/{regex_to_lark(expression, _ASCII_CLASSES)}/"
