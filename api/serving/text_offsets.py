"""Where tokens begin in the text of an answer. Knows detokenization; does not know logprobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from vllm_jax.sampling_params import SamplingParams
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.detokenizer import IncrementalDetokenizer


class TextOffsets:
    """Offsets of one sequence's output tokens, in characters from the start of its text.

    They come from the detokenizer that makes the text, so that they cannot disagree with it: an offset is the
    number of characters before the token. A token that completes no character has the offset where its
    character will begin. ``start`` is the length of what stands before the output: the echoed prompt.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        start: int = 0,
    ):
        self._start = start
        self._detokenizer: IncrementalDetokenizer | None = None
        if tokenizer is not None and params.detokenize:
            self._detokenizer = IncrementalDetokenizer(
                tokenizer,
                prompt_token_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
            )

    def push(self, token_ids: Iterable[int], end: int | None = None) -> list[int]:
        """The offsets of the next tokens; ``end`` is where the text ends, if a stop string has cut it."""
        if self._detokenizer is None:  # there is no text
            return [self._start for _ in token_ids]
        offsets, _ = _push(self._detokenizer, token_ids, self._start)
        return offsets if end is None else [min(offset, end) for offset in offsets]


def prompt_offsets(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> list[int]:
    """Offsets of a prompt's tokens in ``text``, the prompt as it is echoed.

    Special tokens are a part of ``text`` where it was made from ids or spells them, and no part of it where
    the tokenizer has put them around it. Where the tokenizer has normalized ``text``, so that its tokens no
    longer spell it, the offsets are those in what they do spell, and within ``text``.
    """
    end = len(token_ids)
    edges = [token_id in tokenizer.special_token_ids for token_id in token_ids]
    before = [0, 1] if edges[:1] == [True] else [0]
    after = [0, 1] if edges[-1:] == [True] else [0]
    for added, ended in itertools.product(before, after):
        detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=False)
        offsets, spelled = _push(detokenizer, token_ids[added : end - ended], 0)
        if spelled + detokenizer.flush() == text:
            return [0] * added + offsets + [len(text)] * ended
    offsets, _ = _push(IncrementalDetokenizer(tokenizer), token_ids, 0)
    return [min(offset, len(text)) for offset in offsets]


def _push(detokenizer: IncrementalDetokenizer, token_ids: Iterable[int], start: int) -> tuple[list[int], str]:
    """The offset of each token, and the text of all."""
    offsets, texts = [], []
    for token_id in token_ids:
        offsets.append(start + detokenizer.text_length)
        texts.append(detokenizer.push(token_id))
    return offsets, "".join(texts)
