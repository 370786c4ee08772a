"""Text of a completion while its tokens arrive.

Knows how token ids become text piece by piece. Does not know requests or stop strings.

What the text of a completion *is*: a completion continues its prompt, so its text is what
``decode(prompt + output)`` shows behind the longest common beginning with ``decode(prompt)``. For an empty
prompt that is ``decode(output)``. A word that begins with a space keeps it, although
``decode(output)`` alone would drop it for SentencePiece vocabularies; and a character that the prompt's last
token left unfinished belongs to the completion that finishes it. (Where the tokenizer cleans up spaces
around punctuation, the clean-up is done on the completion's own text.) The joined pieces are exactly that
text, for any tokens, because a piece is held back as long as later tokens could still change it:

* bytes of an unfinished character;
* a run of byte tokens, for decoders that read a run as a whole ("ByteFallback" in tokenizer.json: one
  invalid byte turns the whole run into U+FFFD);
* with clean-up, spaces and letters that may be the beginning of " n't" and its like.

(The tokenizers library's ``DecodeStream`` promises less: it has no end, so it keeps an unfinished character
for ever, and for invalid bytes it gives other text than ``decode``, or fails.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

from vllm_jax.tokenizer.base import ByteDecoding, Tokenizer, WindowDecoding
from vllm_jax.tokenizer.utf8 import Utf8Decoder


class IncrementalDetokenizer:
    """Turns one sequence's output tokens into text; the cost of a token does not grow with the sequence.

    ``prompt_token_ids`` is read at construction only, and of a long prompt only the ends. The two options
    are those of :meth:`vllm_jax.tokenizer.base.Tokenizer.decode`; ``shown_special_token_ids`` are not skipped
    in any case.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        shown_special_token_ids: Iterable[int] = (),
    ):
        skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        skipped = skipped.difference(shown_special_token_ids)
        decoding = tokenizer.decoding
        self._stream: _Stream
        if isinstance(decoding, ByteDecoding):
            self._stream = _ByteStream(tokenizer, decoding, prompt_token_ids, skipped)
        else:
            self._stream = _WindowStream(
                tokenizer, decoding, prompt_token_ids, skipped, spaces_between_special_tokens
            )
        self.text_length = 0
        """Characters returned so far. Read before a :meth:`push`, it is the offset of that token's text."""

    def push(self, token_id: int) -> str:
        """Takes the next output token; returns the text it completes, often its own, sometimes none."""
        text = self._stream.push(token_id)
        self.text_length += len(text)
        return text

    def flush(self) -> str:
        """Returns the rest once the output has ended: what was held back can no longer change."""
        text = self._stream.flush()
        self.text_length += len(text)
        return text


class _Stream(Protocol):
    def push(self, token_id: int) -> str: ...
    def flush(self) -> str: ...


class _ByteStream:
    """For vocabularies whose tokens are bytes: byte-level BPE and SentencePiece models."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        decoding: ByteDecoding,
        prompt: Sequence[int],
        skipped: frozenset[int],
    ):
        self._token_bytes = tokenizer.token_bytes
        self._skipped = skipped
        self._leading_spaces = decoding.leading_spaces
        self._decoder = Utf8Decoder(each_invalid_byte=decoding.each_invalid_byte)
        for token_id in prompt:
            if self._leading_spaces == "keep":
                break
            self._take(token_id)
        self._decoder.push(self._last_bytes(prompt))
        # decode(prompt) shows the unfinished character as invalid: no need to say so again.
        unfinished = Utf8Decoder(each_invalid_byte=decoding.each_invalid_byte)
        self._already_shown = unfinished.push(self._decoder.pending, final=True)
        self._between_characters = False  # nothing is held back, nothing is to be dropped

    def push(self, token_id: int) -> str:
        if self._between_characters and token_id not in self._skipped:
            try:  # whole characters are the common case, and cost a fraction of what parts of them do
                return self._token_bytes(token_id).decode()
            except UnicodeDecodeError:
                pass
        text = self._unshown(self._decoder.push(self._take(token_id)))
        self._between_characters = (
            self._leading_spaces == "keep" and not self._already_shown and not self._decoder.pending
        )
        return text

    def flush(self) -> str:
        return self._unshown(self._decoder.push(b"", final=True))

    def _take(self, token_id: int) -> bytes:
        """Returns the token's bytes, less the spaces that the whole text must not begin with."""
        if token_id in self._skipped:
            return b""
        data = self._token_bytes(token_id)
        if self._leading_spaces != "keep" and data:
            if self._leading_spaces == "drop_one":
                self._leading_spaces = "keep"
                return data.removeprefix(b" ")
            data = data.lstrip(b" ")
            if data:
                self._leading_spaces = "keep"
        return data

    def _last_bytes(self, prompt: Sequence[int]) -> bytes:
        """Returns at least the prompt's last 3 bytes: an unfinished character has no more."""
        data = b""
        for token_id in reversed(prompt):
            if len(data) >= 3:
                break
            if token_id not in self._skipped:
                data = self._token_bytes(token_id) + data
        return data

    def _unshown(self, text: str) -> str:
        if text and self._already_shown:
            text = text.removeprefix(self._already_shown)
            self._already_shown = ""
        return text


class _WindowStream:
    """For all other decoders: decodes a few tokens, and the same with the new ones, and takes the difference.

    The window is the shortest end of the text's tokens that shows any text: that much context makes a
    decoder treat the next token as one inside a text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        decoding: WindowDecoding,
        prompt: Sequence[int],
        skipped: frozenset[int],
        spaces: bool,
    ):
        self._id_to_piece = tokenizer.id_to_piece
        self._decoding = decoding
        self._skipped = skipped
        self._spaces = spaces
        self._uncleaned = ""
        self._pending: list[int] = []
        self._set_window(token_id for token_id in reversed(prompt) if self._counts(token_id))

    def push(self, token_id: int) -> str:
        if not self._counts(token_id):
            return ""
        self._pending.append(token_id)
        if self._decoding.is_byte(token_id):
            return ""
        text = self._new_text()
        if self._decoding.replacement_is_open and text.endswith("\ufffd"):
            return ""
        self._advance()
        return self._cleaned(text)

    def flush(self) -> str:
        text = self._new_text() if self._pending else ""
        self._advance()
        return self._cleaned(text, final=True)

    def _counts(self, token_id: int) -> bool:
        return token_id not in self._skipped and self._id_to_piece(token_id) is not None

    def _decode(self, ids: Sequence[int]) -> str:
        return self._decoding.decode(ids, self._spaces)

    def _new_text(self) -> str:
        text = self._decode([*self._window, *self._pending])
        if text.startswith(self._shown):
            return text[len(self._shown) :]
        same = (a == b for a, b in zip(text, self._shown, strict=False))
        return text[sum(1 for _ in itertools.takewhile(bool, same)) :]

    def _advance(self) -> None:
        self._set_window(reversed([*self._window, *self._pending]))
        self._pending = []

    def _set_window(self, backwards: Iterable[int]) -> None:
        """Sets the window to the shortest end that shows text and does not cut a run of bytes."""
        window: list[int] = []
        shown = ""
        for token_id in backwards:
            is_byte = self._decoding.is_byte(token_id)
            in_run = is_byte and bool(window) and self._decoding.is_byte(window[-1])
            if not in_run:
                shown = self._decode(window[::-1]) if window else ""
                if shown:
                    break
            window.append(token_id)
        window.reverse()
        self._window = window
        self._shown = shown or self._decode(window)

    def _cleaned(self, text: str, *, final: bool = False) -> str:
        """Cleans up ``text`` up to the last character behind which no pattern can be under way.

        All patterns of the clean-up begin with a space, end before the next word, and inside them only
        the characters " 'nvr" are followed by more; and only spaces are ever deleted. So text may be cut
        behind any other character, and the parts cleaned separately.
        """
        if self._decoding.clean_up is None:
            return text
        text = self._uncleaned + text
        safe = len(text) if final else len(text.rstrip(" 'nvr"))
        self._uncleaned = text[safe:]
        return self._decoding.clean_up(text[:safe])
