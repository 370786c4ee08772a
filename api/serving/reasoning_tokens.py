"""Counts the tokens of an answer that are reasoning, for ``usage``. Knows marks and detokenization."""

from __future__ import annotations

from collections.abc import Iterable

from api.parsers.registry import ReasoningFormat
from api.serving.chat_plan import ChatPlan
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.detokenizer import IncrementalDetokenizer


class ReasoningTokens:
    """Counts one answer's tokens between the marks of its format; the one that completes a mark is none."""

    def __init__(self, format: ReasoningFormat, plan: ChatPlan, tokenizer: Tokenizer):
        params = plan.params
        self._start, self._ends = format.span
        self._inside = plan.reading.opening == "open"
        self._over = plan.reading.opening == "closed"
        self._repeats = format.marks is None
        self._tail = ""
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            plan.prompt.token_ids,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
            shown_special_token_ids=params.shown_special_token_ids,
        )

    @classmethod
    def of(cls, plan: ChatPlan, tokenizer: Tokenizer | None) -> ReasoningTokens | None:
        """A counter for one answer; None where reasoning is not told apart."""
        format = plan.reading.formats.reasoning
        return None if format is None or tokenizer is None else cls(format, plan, tokenizer)

    def count(self, token_ids: Iterable[int]) -> int:
        """How many of the next tokens are reasoning."""
        return sum(self._is_reasoning(token_id) for token_id in token_ids if not self._over)

    def _is_reasoning(self, token_id: int) -> bool:
        self._tail += self._detokenizer.push(token_id)
        marks = self._ends if self._inside else (self._start,)
        if not any(mark in self._tail for mark in marks):
            longest = max(map(len, marks)) - 1
            self._tail = self._tail[max(0, len(self._tail) - longest) :]
            return self._inside
        self._tail = ""
        self._inside = not self._inside
        self._over = not self._inside and not self._repeats
        return False
