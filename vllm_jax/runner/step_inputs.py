"""From a ScheduledBatch to the arrays of its step. Numpy only; knows the layout, runs nothing.

Padding: unused tokens are 0, unused rows have no tokens, and rows that do not sample write their token to a
position beyond the end of the history, where it is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vllm_jax.runner.buckets import ShapeRegistry, StepShape, at_least
from vllm_jax.runner.programs import StepLayout
from vllm_jax.runner.slots import VARIANTS, SlotTable
from vllm_jax.sampling.mask import fill_row, full_row
from vllm_jax.scheduled_batch import ScheduledBatch, ScheduledSequence

TAKE_FROM_HISTORY = -1


@dataclass(frozen=True)
class SamplerInputs:
    """Arguments of a sampler program after ``(logits, history)``, and which program it is."""

    variant: str
    num_rows: int
    arguments: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class StepInputs:
    """Everything one step uploads. ``score_targets [T]`` is None unless a row wants prompt logprobs."""

    shape: StepShape
    packed: np.ndarray
    sampler: SamplerInputs | None
    score_targets: np.ndarray | None


class StepInputBuilder:
    """Builds the arrays; owns the slot table."""

    def __init__(self, registry: ShapeRegistry, slots: SlotTable, history_len: int):
        self._registry = registry
        self._slots = slots
        self._history_len = history_len
        self._pages_per_seq = slots.page_table.shape[1]

    def layout(self, shape: StepShape) -> StepLayout:
        """Where the fields of a step of ``shape`` lie."""
        return StepLayout(shape.num_tokens, shape.num_rows, self._pages_per_seq)

    def build(self, batch: ScheduledBatch) -> StepInputs:
        """Arrays for ``batch``; updates the slot table with its admissions and new pages."""
        rows, decodes = batch.rows, batch.num_decodes
        chunks = rows[decodes:]
        scores = any(r.seq.params.prompt_logprobs is not None and _in_prompt(r) for r in chunks)
        decode_only = not scores and all(row.num_tokens == 1 for row in chunks)
        num_tokens = decodes + sum(row.num_tokens for row in chunks)
        shape = self._registry.shape_for(num_tokens, len(rows), decode_only=decode_only)
        layout = self.layout(shape)
        packed = np.zeros(layout.size, np.int32)
        tokens, page_table, kv_lens, cu_q_lens, slots = layout.unpack(packed)

        self._slots.place(rows)
        used = slots[: len(rows)]
        used[:] = [row.slot for row in rows]
        kv_lens[: len(rows)] = [row.start + row.num_tokens for row in rows]
        page_table[: len(rows)] = self._slots.page_table[used]
        cu_q_lens[1:] = num_tokens
        cu_q_lens[1 : decodes + 1] = np.arange(1, decodes + 1)
        tokens[:decodes] = TAKE_FROM_HISTORY
        end = decodes
        for i, row in enumerate(chunks, start=decodes):
            tokens[end : end + row.num_tokens] = row.seq.known_tokens(row.start, row.start + row.num_tokens)
            end += row.num_tokens
            cu_q_lens[i + 1] = end

        samples = np.array([row.samples for row in rows])
        sampler = (
            self._sampler_inputs(rows, used, kv_lens, samples, shape.num_rows) if samples.any() else None
        )
        targets = _score_targets(rows, shape.num_tokens) if scores else None
        return StepInputs(shape, packed, sampler, targets)

    def _sampler_inputs(
        self,
        rows: list[ScheduledSequence],
        used: np.ndarray,
        kv_lens: np.ndarray,
        samples: np.ndarray,
        num_rows: int,
    ) -> SamplerInputs:
        """``used [n]``: the rows' slots; ``kv_lens [>= n]``: their lengths; ``samples [n]``: who samples."""
        table, count = self._slots, len(rows)
        variant = VARIANTS[table.variants[used[samples]].max()]
        if variant != "greedy":
            num_rows = at_least(self._registry.sampler_rows, num_rows)
        ints = np.zeros((2, num_rows), np.int32)
        slots, positions = ints
        slots[:count] = used
        positions[:] = self._history_len
        np.copyto(positions[:count], kv_lens[:count], where=samples)
        if variant == "greedy":
            return SamplerInputs(variant, num_rows, (ints,))
        ints = np.vstack([ints, table.ints[:, slots]])
        if variant == "random":
            return SamplerInputs(variant, num_rows, (ints, table.floats[:3, slots]))
        allowed = self._allowed_mask(rows, num_rows)
        if variant == "masked":
            return SamplerInputs(variant, num_rows, (ints, table.floats[:3, slots], allowed))
        prompt_lens = np.zeros(num_rows, np.int32)
        counted = np.zeros(num_rows, np.int32)
        for i, row in enumerate(rows):
            prompt_lens[i] = row.seq.num_prompt_tokens
            if row.samples and row.seq.params.uses_penalties:
                counted[i] = positions[i]
        return SamplerInputs(
            variant,
            num_rows,
            (
                np.vstack([ints, prompt_lens, counted]),
                table.floats[:, slots],
                table.bias_ids[slots],
                table.bias_values[slots],
                allowed,
                table.listed_ids[slots],
            ),
        )

    def _allowed_mask(self, rows: list[ScheduledSequence], num_rows: int) -> np.ndarray:
        """``[num_rows, W]`` uint32: the tokens that each row may sample."""
        allowed = np.tile(full_row(self._slots.vocab_size), (num_rows, 1))
        for i, row in enumerate(rows):
            seq = row.seq
            if not row.samples:
                continue
            grammar = None if seq.grammar is None else seq.grammar.mask
            if seq.token_constraints is not None:
                num_output = row.start + row.num_tokens - seq.num_prompt_tokens
                fill_row(allowed[i], seq.token_constraints, num_output, seq.output_token_ids, grammar)
            elif grammar is not None:
                allowed[i] = grammar
        return allowed


def _in_prompt(row: ScheduledSequence) -> bool:
    return row.start < row.seq.num_prompt_tokens - 1


def _score_targets(rows: list[ScheduledSequence], num_tokens: int) -> np.ndarray:
    """``[T]`` int32: the prompt token that each prompt position predicts; 0 elsewhere."""
    targets = np.zeros(num_tokens, np.int32)
    at = 0
    for row in rows:
        following = row.seq.prompt_token_ids[row.start + 1 : row.start + row.num_tokens + 1]
        targets[at : at + len(following)] = following
        at += row.num_tokens
    return targets
