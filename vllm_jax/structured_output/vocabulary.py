"""The token vocabulary as the grammar engine sees it: the bytes of every id of the model's logits.

Knows token bytes, special tokens and bit masks over ids. Does not know grammars or requests.

The end of a text is an id of its own behind the model's vocabulary, so that a mask says "the text may end
here" in one place; which of the model's tokens then end it is a matter of the request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper

from vllm_jax.sampling.mask import full_row, pack_ids


class TokenTexts(Protocol):
    """What is needed of a tokenizer."""

    special_token_ids: frozenset[int]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes the token adds inside a text."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        ...


class Vocabulary:
    """``size`` ids, the columns of the logits; ids that the tokenizer lacks are never allowed."""

    def __init__(self, tokenizer: TokenTexts, size: int, eos_token_ids: Collection[int]):
        self.size = size
        self.eos_token_ids = frozenset(i for i in eos_token_ids if 0 <= i < size)
        self.special_token_ids = frozenset(i for i in tokenizer.special_token_ids if 0 <= i < size)
        self._tokenizer = tokenizer

    @cached_property
    def tokens(self) -> list[bytes]:
        """Bytes of every id; empty where there is no such token."""
        return [self._tokenizer.token_bytes(i) for i in range(self.size)]

    @cached_property
    def trie(self) -> LLTokenizer:
        """The grammar engine's own view. Takes about half a second for 128k tokens."""
        return LLTokenizer(TokenizerWrapper(_Source(self, self._tokenizer)), eos_token=[self.size])

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The special tokens by their texts."""
        return {text: i for i, text in self.special_texts.items()}

    @property
    def special_texts(self) -> dict[int, str]:
        """What grammars call the special tokens."""
        ids = sorted(self.special_token_ids | self.eos_token_ids)
        return {i: self._tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids}

    @cached_property
    def usable(self) -> np.ndarray:
        """``[W]`` uint32: every id with a text, but for EOS."""
        ids = [i for i, data in enumerate(self.tokens) if data and i not in self.eos_token_ids]
        return pack_ids(ids, self.size)

    @cached_property
    def full(self) -> np.ndarray:
        """``[W]`` uint32: every id."""
        return full_row(self.size)

    def pack(self, ids: Iterable[int]) -> np.ndarray:
        """``[W]`` uint32 with a bit for each of ``ids``."""
        return pack_ids(list(ids), self.size)

    @property
    def padded_words(self) -> int:
        """Words of a mask that the grammar engine writes: one bit more than the model's ids."""
        return (self.size + 32) // 32

    def split_end(self, padded: np.ndarray) -> tuple[np.ndarray, bool]:
        """Cuts ``padded [padded_words]`` into a mask over the model's ids (a copy) and "may end here"."""
        may_end = bool(padded[self.size >> 5] >> np.uint32(self.size & 31) & 1)
        return padded[: len(self.full)] & self.full, may_end


class _Source:
    """The interface that the grammar engine reads a tokenizer through."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: TokenTexts):
        special = vocabulary.special_token_ids | vocabulary.eos_token_ids
        self.eos_token_id = vocabulary.size
        self.bos_token_id = None
        self.tokens = [*vocabulary.tokens, b"<|end of text|>"]
        self.special_token_ids = [*sorted(special), vocabulary.size]
        self._encode = tokenizer.encode

    def __call__(self, text: Any) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._encode(text, add_special_tokens=False)
