"""Which tokens a sequence may sample next, as a row of packed bits, on the host.

Covers ``allowed_token_ids``, ``bad_words`` and ``min_tokens``, on top of what a grammar allows.
Bit ``i`` of uint32 word ``w`` stands for token ``32 w + i``; bits behind the vocabulary are 0.
Knows token ids and NumPy. Does not know JAX or tokenizers: encoding comes in as a function.

Where ``allowed_token_ids`` or a grammar and the bans (``bad_words``, ``min_tokens``) leave nothing at some
position, the bans give way there: something must be sampled. What is contradictory from the start is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vllm_jax.errors import InvalidRequestError
from vllm_jax.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class TokenConstraints:
    """What one request's mask is made of, prepared once.

    ``base``: ``[W]`` uint32, the ids allowed at all. ``stop_ids`` are banned while there are fewer than
    ``min_tokens`` output tokens. ``bad_words`` are token sequences that must not be completed.
    """

    base: np.ndarray
    min_tokens: int
    stop_ids: np.ndarray
    bad_words: tuple[tuple[int, ...], ...]

    def banned(self, num_output: int, output_token_ids: Sequence[int]) -> list[int]:
        """Ids that ``bad_words`` and ``min_tokens`` forbid after this output."""
        ids = self.stop_ids.tolist() if num_output < self.min_tokens else []
        for word in self.bad_words:
            start = len(word) - 1
            if start == 0 or tuple(output_token_ids[-start:]) == word[:-1]:
                ids.append(word[-1])
        return ids


def full_row(vocab_size: int) -> np.ndarray:
    """``[W]`` uint32 with a bit for every token of the vocabulary."""
    words = np.full((vocab_size + 31) // 32, 0xFFFFFFFF, np.uint32)
    if rest := vocab_size % 32:
        words[-1] = (1 << rest) - 1
    return words


def pack_ids(ids: Collection[int], vocab_size: int) -> np.ndarray:
    """``[W]`` uint32 with a bit for each of ``ids`` (all in the vocabulary; repetitions are fine)."""
    words = np.zeros((vocab_size + 31) // 32, np.uint32)
    tokens = np.fromiter(ids, np.int64, len(ids))
    np.bitwise_or.at(words, tokens >> 5, np.left_shift(np.uint32(1), (tokens & 31).astype(np.uint32)))
    return words


def prepare_constraints(
    params: SamplingParams,
    *,
    vocab_size: int,
    eos_token_ids: Collection[int],
    encode: Callable[[str], list[int]] | None,
) -> TokenConstraints | None:
    """Prepares a request's mask, or None where any token may come at any time.

    Args:
        params: Already validated for the model.
        vocab_size: Columns of the logits.
        eos_token_ids: The model's EOS ids, also where the request ignores EOS.
        encode: Text to token ids without special tokens; None where the server has no tokenizer.

    Raises:
        InvalidRequestError: ``bad_words`` without a tokenizer, or constraints that allow no token at all.
    """
    if not params.constrains_tokens:
        return None
    allowed = params.allowed_token_ids
    base = full_row(vocab_size) if allowed is None else pack_ids(allowed, vocab_size)
    stops = {t for t in (*eos_token_ids, *params.stop_token_ids) if 0 <= t < vocab_size}
    if params.min_tokens > 0 and not (base & ~pack_ids(stops, vocab_size)).any():
        raise InvalidRequestError(
            "min_tokens cannot be honoured: every allowed token is a stop token", "min_tokens"
        )
    if params.bad_words and encode is None:
        raise InvalidRequestError(
            "bad_words needs a tokenizer, and this server runs without one", "bad_words"
        )
    words = _encode_bad_words(params.bad_words, encode, vocab_size) if encode is not None else ()
    always = {word[0] for word in words if len(word) == 1}
    if always and not (base & ~pack_ids(always, vocab_size)).any():
        raise InvalidRequestError("bad_words cannot be honoured: they leave no allowed token", "bad_words")
    return TokenConstraints(
        base=base,
        min_tokens=params.min_tokens,
        stop_ids=np.array(sorted(stops), np.int64),
        bad_words=words,
    )


def fill_row(
    row: np.ndarray,
    constraints: TokenConstraints,
    num_output: int,
    output_token_ids: Sequence[int],
    grammar: np.ndarray | None = None,
) -> None:
    """Writes the mask for the next token into ``row`` (``[W]`` uint32, mutated).

    Args:
        row: One row of the batch's mask.
        constraints: The request's, from :func:`prepare_constraints`.
        num_output: Output tokens so far, those not read from the device yet included.
        output_token_ids: The output tokens; where there are ``bad_words`` it must hold all of them.
        grammar: ``[W]`` uint32 that a grammar allows, instead of ``constraints.base``.
    """
    base = constraints.base if grammar is None else grammar
    row[:] = base
    if banned := constraints.banned(num_output, output_token_ids):
        for token in banned:
            row[token >> 5] &= np.uint32(0xFFFFFFFF ^ (1 << (token & 31)))
        if not row.any():
            row[:] = base


def _encode_bad_words(
    words: Sequence[str], encode: Callable[[str], list[int]], vocab_size: int
) -> tuple[tuple[int, ...], ...]:
    """Token sequences of each word, as it stands and after a space; repetitions removed.

    A sequence with an id outside the model's vocabulary can never be completed and is left out.
    """
    sequences: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word.lstrip()):
            ids = tuple(encode(text))
            if ids and max(ids) < vocab_size:
                sequences[ids] = None
    return tuple(sequences)
