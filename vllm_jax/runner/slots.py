"""The host's side of the per-slot state: numpy rows that a step's inputs are gathered from.

Knows what each running sequence needs on the device (its pages, its sampling settings), kept per slot so
that building a step is a handful of numpy gathers instead of a Python loop over parameters. A row is
written once, when its sequence is admitted; afterwards only new pages are appended.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vllm_jax.sampling.seeds import seed_words
from vllm_jax.sampling_params import MAX_LOGIT_BIAS, MAX_LOGPROB_TOKEN_IDS
from vllm_jax.scheduled_batch import ScheduledSequence
from vllm_jax.sequence import Sequence

VARIANTS = ("greedy", "random", "masked", "full")
"""The sampler programs, cheapest first; each honours whatever those before it do."""


class SlotTable:
    """Pages and sampling settings of ``num_slots`` slots.

    ``ints [3, num_slots]``: top_k, two seed words. ``floats [6, num_slots]``: temperature, top_p, min_p,
    presence, frequency, repetition. ``page_table [num_slots, P]``. ``variants [num_slots]``: the index in
    :data:`VARIANTS` of the cheapest sampler that will do.
    """

    def __init__(self, num_slots: int, pages_per_seq: int, vocab_size: int):
        self.vocab_size = vocab_size
        self.page_table = np.zeros((num_slots, pages_per_seq), np.int32)
        self.variants = np.zeros(num_slots, np.int8)
        self._num_pages = [0] * num_slots
        self.ints = np.zeros((3, num_slots), np.int32)
        self.floats = np.zeros((6, num_slots), np.float32)
        self.floats[[1, 5]] = 1.0  # top_p and repetition are off at 1
        self.bias_ids = np.full((num_slots, MAX_LOGIT_BIAS), vocab_size, np.int32)
        self.bias_values = np.zeros((num_slots, MAX_LOGIT_BIAS), np.float32)
        self.listed_ids = np.zeros((num_slots, MAX_LOGPROB_TOKEN_IDS), np.int32)
        self._biased = [False] * num_slots

    def place(self, rows: Iterable[ScheduledSequence]) -> None:
        """Brings the rows' slots up to date: everything on an admission, else the new pages."""
        num_pages = self._num_pages
        for row in rows:
            slot, pages = row.slot, row.block_ids
            if row.resumed:
                num_pages[slot] = 0
                self._admit(slot, row.seq)
            known = num_pages[slot]
            if len(pages) > known:
                self.page_table[slot, known : len(pages)] = pages[known:]
                num_pages[slot] = len(pages)

    def _admit(self, slot: int, seq: Sequence) -> None:
        p = seq.params
        if p.needs_full_sampler:
            self.variants[slot] = VARIANTS.index("full")
        elif seq.grammar is not None:
            self.variants[slot] = VARIANTS.index("masked")
        else:
            self.variants[slot] = VARIANTS.index("greedy" if p.greedy else "random")
        self.ints[0, slot] = p.top_k
        self.ints[1:, slot] = np.array(seed_words(seq.seed), np.uint32).view(np.int32)
        self.floats[:, slot] = (
            p.temperature,
            p.top_p,
            p.min_p,
            p.presence_penalty,
            p.frequency_penalty,
            p.repetition_penalty,
        )
        if p.logit_bias or self._biased[slot]:
            self.bias_ids[slot] = self.vocab_size
            self.bias_ids[slot, : len(p.logit_bias)] = list(p.logit_bias)
            self.bias_values[slot, : len(p.logit_bias)] = list(p.logit_bias.values())
            self._biased[slot] = bool(p.logit_bias)
        if p.logprob_token_ids:
            self.listed_ids[slot, : len(p.logprob_token_ids)] = p.logprob_token_ids
