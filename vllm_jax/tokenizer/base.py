"""What a tokenizer is to the rest of the server.

Knows the names every tokenizer answers to, and the two ways token ids become text. Does not know where a
tokenizer comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vllm_jax.errors import InvalidRequestError

TruncationSide = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class ByteDecoding:
    """The text of tokens is the UTF-8 reading of their joined bytes.

    ``each_invalid_byte`` is that of :class:`~vllm_jax.tokenizer.utf8.Utf8Decoder`. ``leading_spaces`` says
    which of the spaces that the text begins with are taken away: SentencePiece puts one there itself.
    """

    each_invalid_byte: bool = False
    leading_spaces: Literal["keep", "drop_one", "drop_all"] = "keep"


@dataclass(frozen=True, slots=True)
class WindowDecoding:
    """The text of a token depends on its neighbours, so a stream decodes a short window of tokens.

    ``decode(ids, spaces_between_special_tokens)`` gives the text of all ``ids``, without clean-up.
    ``is_byte(id)`` holds for tokens that stand for one byte: a run of them becomes text as a whole.
    Where ``replacement_is_open``, a text that ends in U+FFFD may still become a character.
    ``clean_up`` finishes a text, or is None.
    """

    decode: Callable[[Sequence[int], bool], str]
    is_byte: Callable[[int], bool]
    replacement_is_open: bool
    clean_up: Callable[[str], str] | None


class Tokenizer(Protocol):
    """Text to token ids and back. All methods may be called from any thread at any time."""

    vocab_size: int
    """Number of tokens, added ones too."""
    max_token_id: int
    """The largest id; ids may have gaps, so it can be larger than ``vocab_size - 1``."""
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    special_token_ids: frozenset[int]
    """What ``skip_special_tokens`` leaves out."""
    special_tokens: Mapping[str, str]
    """Token by role, ``{"bos_token": "<s>", ...}``; chat templates read them."""
    max_length: int | None
    """The longest sequence the tokenizer's config states, in tokens."""
    class_name: str
    """Its class in transformers, as the tokenizer's config states it."""
    truncation_side: TruncationSide
    decoding: ByteDecoding | WindowDecoding
    """How ids become text, for a stream."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns the token ids of ``text``.

        Tokens of the added vocabulary that are spelled out in ``text`` become those tokens.
        ``add_special_tokens`` puts BOS and EOS around it where the tokenizer is made that way.

        Raises:
            InvalidRequestError: ``text`` holds a lone surrogate and so is no Unicode text.
        """
        ...

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """Returns the text of ``ids``. Ids that the vocabulary lacks (a padded embedding) add nothing.

        ``spaces_between_special_tokens=False`` keeps a decoder that joins tokens with spaces from putting
        them around tokens of the added vocabulary. Most decoders put none there in any case.

        Raises:
            InvalidRequestError: an id is negative or beyond 32 bits.
        """
        ...

    def token_str(self, token_id: int) -> str:
        """Returns the text the token adds inside a text (" world" with its space); may be U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes the token adds inside a text; part of a character where that is what it is."""
        ...

    def id_to_piece(self, token_id: int) -> str | None:
        """Returns the vocabulary's own spelling ("Ġworld", "▁world", "<0x0A>"), or None for no such id."""
        ...

    def token_to_id(self, piece: str) -> int | None:
        """Returns the id of a vocabulary entry, spelled as :meth:`id_to_piece` gives it, or None."""
        ...

    def get_chat_template(self, name: str = "default") -> str | None:
        """Returns the chat template of that name that came with the tokenizer, or None."""
        ...


def require_unicode(text: str) -> None:
    """Refuses text that cannot be encoded at all.

    Raises:
        InvalidRequestError: ``text`` holds a lone surrogate (JSON such as ``"\\ud83d"`` can smuggle one in).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"the text is no valid Unicode: lone surrogate U+{ord(text[error.start]):04X} "
            f"at character {error.start}"
        ) from None


def require_token_ids(ids: Sequence[int]) -> None:
    """Refuses ids that can be in no vocabulary.

    Raises:
        InvalidRequestError: an id is negative or beyond 32 bits; the text names it.
    """
    for token_id in ids:
        if not 0 <= token_id < 2**32:
            raise InvalidRequestError(f"token id {token_id} is out of vocabulary")
