"""Bytes to text, whole or piece by piece. Knows UTF-8 and the two ways to show bytes that are none."""

from __future__ import annotations

import codecs
import re

_ESCAPED_BYTE = re.compile(r"[\udc80-\udcff]")


class Utf8Decoder:
    """Decodes UTF-8 that arrives in pieces; an unfinished character waits for its other bytes.

    For any split of ``data``, the joined results of :meth:`push` (the last one with ``final=True``) are
    those of one call. Each byte that belongs to no character becomes its own U+FFFD where
    ``each_invalid_byte`` is set (as SentencePiece does), else each maximal invalid part becomes one
    (Unicode 16.0, section 3.9, table 3-8; as Rust's ``from_utf8_lossy`` does).
    """

    def __init__(self, *, each_invalid_byte: bool = False):
        self._each_invalid_byte = each_invalid_byte
        # "surrogateescape" makes one lone surrogate of each undecodable byte, so they can be counted.
        errors = "surrogateescape" if each_invalid_byte else "replace"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, data: bytes, *, final: bool = False) -> str:
        """Returns the text that ``data`` completes; with ``final``, what is unfinished counts as invalid."""
        text = self._decoder.decode(data, final)
        return _ESCAPED_BYTE.sub("\ufffd", text) if self._each_invalid_byte else text

    @property
    def pending(self) -> bytes:
        """The bytes of the unfinished character, at most 3."""
        return self._decoder.getstate()[0]


def decode_utf8(data: bytes, *, each_invalid_byte: bool = False) -> str:
    """Decodes ``data`` at once; see :class:`Utf8Decoder` for invalid bytes."""
    return Utf8Decoder(each_invalid_byte=each_invalid_byte).push(data, final=True)
