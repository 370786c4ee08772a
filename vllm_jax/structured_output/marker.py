"""The text behind which a constraint begins, found in a stream of tokens.

Knows bytes of tokens. A token that would run past the marker's end is banned, because what it brings behind
the marker would escape the constraint.
"""

from __future__ import annotations

import numpy as np

from vllm_jax.structured_output.vocabulary import Vocabulary


class Marker:
    """A marker and the tokens that would straddle its end."""

    def __init__(self, text: str, vocabulary: Vocabulary):
        self._bytes = text.encode()
        self._vocabulary = vocabulary
        marker = self._bytes
        inside: list[int] = []
        behind: list[list[int]] = [[] for _ in marker]
        for token, data in enumerate(vocabulary.tokens):
            if marker in data[:-1]:
                inside.append(token)
            for known in range(1, len(marker)):
                rest = marker[known:]
                if len(data) > len(rest) and data.startswith(rest):
                    behind[known].append(token)
        self._inside = vocabulary.pack(inside)
        self._behind = [vocabulary.pack(ids) for ids in behind]

    def find(self, tail: bytes, token: int) -> bytes | None:
        """``tail`` of the next step, at most the marker's length less one; None where the marker is complete.

        ``tail`` is what this function gave for the token before, and empty at first.
        """
        text = tail + self._vocabulary.tokens[token]
        if self._bytes in text:
            return None
        return text[max(0, len(text) - len(self._bytes) + 1) :]

    def allowed(self, tail: bytes) -> np.ndarray:
        """``[W]`` uint32: the tokens that may follow ``tail``; all but EOS and those that straddle."""
        allowed = self._vocabulary.usable & ~self._inside
        for known in range(1, len(tail) + 1):
            if tail.endswith(self._bytes[:known]):
                allowed &= ~self._behind[known]
        return allowed
