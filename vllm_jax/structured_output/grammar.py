"""A compiled constraint, and where each sequence is in it.

Knows tokens and masks. Does not know how grammars are written, nor who samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llguidance import LLExecutor, LLMatcher

from vllm_jax.structured_output.marker import Marker
from vllm_jax.structured_output.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Grammar:
    """A constraint, compiled once and shared by the sequences that are held to it.

    ``matcher`` stands at the beginning and is only ever copied; ``first_mask [W]`` uint32 and ``may_end``
    are what it allows there.
    """

    vocabulary: Vocabulary
    matcher: LLMatcher
    first_mask: np.ndarray
    may_end: bool
    marker: Marker | None

    def start(self, eos_token_ids: frozenset[int], stop_token_ids: frozenset[int]) -> GrammarState:
        """A new sequence.

        Special tokens among ``stop_token_ids`` end it like EOS does: where the text may end. Others are part
        of the text, and allowed where the text goes on with them.
        """
        ends = eos_token_ids | (stop_token_ids & self.vocabulary.special_token_ids)
        return GrammarState(self, self.vocabulary.pack(i for i in ends if i < self.vocabulary.size))


class GrammarState:
    """One sequence's way through its grammar.

    Attributes:
        mask: ``[W]`` uint32: the tokens that may be sampled next. Never written to after it has been set.
        finished: The text is complete and nothing can follow.
        error: Why the grammar cannot go on, or None.
    """

    def __init__(self, grammar: Grammar, ends: np.ndarray):
        self._vocabulary = grammar.vocabulary
        self._matcher = grammar.matcher.deep_copy()
        self._ends = ends
        self._marker = grammar.marker
        self._tail = b""
        self._first = (grammar.first_mask, grammar.may_end)
        self.finished = False
        self.error: str | None = None
        if self._marker is not None:
            self.mask = self._marker.allowed(b"")
        else:
            self._set_mask(*self._first)

    def consume(self, token: int) -> bool:
        """Takes the token that was sampled; whether :func:`compute_masks` must make the next mask."""
        if self._marker is not None:
            tail = self._marker.find(self._tail, token)
            if tail is None:
                self._marker = None
                self._set_mask(*self._first)
            else:
                self._tail = tail
                self.mask = self._marker.allowed(tail)
            return False
        if self._ends[token >> 5] >> np.uint32(token & 31) & 1:
            # An end that did not count as one because of min_tokens: nothing else could follow.
            self.finished = True
        elif not self._matcher.consume_token(token):
            self.error = self._matcher.get_error() or "the token is not allowed"
        elif self._matcher.is_stopped():
            self._stop()
        return not (self.finished or self.error)

    def take(self, padded: np.ndarray) -> None:
        """Takes the mask that was computed for this state."""
        if self._matcher.is_error():
            self.error = self._matcher.get_error()
        else:
            self._set_mask(*self._vocabulary.split_end(padded))

    def _stop(self) -> None:
        if self._matcher.is_accepting():
            self.finished = True
        else:
            self.error = f"the grammar cannot go on: {self._matcher.stop_reason()}"

    def _set_mask(self, mask: np.ndarray, may_end: bool) -> None:
        if not mask.any():
            # It was noticed late that nothing can follow.
            self.finished, self.error = may_end, None if may_end else "the grammar allows no token"
        self.mask = mask | self._ends if may_end else mask


class MaskMaker:
    """Computes the masks of many sequences at once, on several cores. One thread calls it."""

    def __init__(self, num_threads: int):
        self._executor = LLExecutor(num_threads)

    def make(self, states: list[GrammarState]) -> None:
        """Sets ``mask``, ``finished`` or ``error`` of each state, all over one vocabulary."""
        if not states:
            return
        words = states[0]._vocabulary.padded_words
        masks = np.zeros((len(states), words), np.uint32)
        self._executor.unsafe_compute_mask_ptr(
            [(state._matcher, i) for i, state in enumerate(states)],
            masks.ctypes.data,
            words * masks.itemsize,
            len(states),
        )
        for state, mask in zip(states, masks, strict=True):
            state.take(mask)
