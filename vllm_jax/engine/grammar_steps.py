"""What a step's tokens mean to the sequences with a structured output.

Knows batches and grammar states. The scheduler does not schedule such a sequence again before its last token
has been here, so that its mask is always that of its next token.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from vllm_jax.outputs import FinishReason
from vllm_jax.scheduled_batch import ScheduledBatch
from vllm_jax.sequence import Sequence
from vllm_jax.structured_output.grammar import GrammarState, MaskMaker

logger = logging.getLogger(__name__)


class GrammarSteps:
    """Advances the grammars of a batch, all of them together."""

    def __init__(self) -> None:
        self._masks = MaskMaker(max(1, os.cpu_count() or 1))

    def advance(
        self, batch: ScheduledBatch, tokens: Iterable[int | None]
    ) -> list[tuple[Sequence, FinishReason]]:
        """Takes the tokens that ``batch`` has sampled and makes the next masks.

        Returns:
            the sequences that end here: "stop" where nothing can follow, "error" where the grammar has
            come to be too complex.
        """
        moved: list[tuple[Sequence, GrammarState]] = []
        waiting: list[GrammarState] = []
        for row, token in zip(batch.rows, tokens, strict=True):
            state = row.seq.grammar
            if state is not None and token is not None and not row.seq.finished:
                moved.append((row.seq, state))
                if state.consume(token):
                    waiting.append(state)
        self._masks.make(waiting)
        ended: list[tuple[Sequence, FinishReason]] = []
        for seq, state in moved:
            if state.error is not None:
                logger.error("request %s: its grammar failed: %s", seq.request_id, state.error)
                ended.append((seq, "error"))
            elif state.finished:
                ended.append((seq, "stop"))
        return ended
