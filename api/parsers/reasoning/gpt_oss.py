"""gpt-oss: reasoning is what stands in the channel "analysis". See :mod:`api.parsers.harmony`."""

from __future__ import annotations

from api.parsers.harmony import MARKERS

ANALYSIS = "<|channel|>analysis<|message|>"
"""Where reasoning begins."""
FINAL = "<|channel|>final<|message|>"
"""Where reasoning has ended and the answer begins: a grammar starts here."""

__all__ = ["ANALYSIS", "FINAL", "MARKERS"]
