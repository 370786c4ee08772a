"""Counts tokens of a request's prompts and sequences while its answer is made."""

from __future__ import annotations

from collections.abc import Sequence

from api.protocol.base import CompletionTokensDetails, PromptTokensDetails, Usage
from vllm_jax.outputs import RequestOutput


class UsageCounter:
    """Sums up the usage of one request, which may have several prompts."""

    def __init__(self, prompt_lengths: Sequence[int], *, details: bool, count_output: bool = True):
        self._prompt_tokens = sum(prompt_lengths)
        self._cached = [0] * len(prompt_lengths)
        self._completion_tokens = 0
        self._details = details
        self._count_output = count_output
        self._reasoning_tokens: int | None = None

    def add(self, prompt: int, delta: RequestOutput) -> None:
        """Counts what is new in ``delta``, an output of prompt number ``prompt``."""
        self._cached[prompt] = max(self._cached[prompt], delta.num_cached_tokens)
        if self._count_output:
            self._completion_tokens += sum(len(o.token_ids) for o in delta.outputs)

    def add_reasoning(self, tokens: int) -> None:
        """Says that so many of the answers' tokens are reasoning; from then on, usage tells how many are."""
        self._reasoning_tokens = (self._reasoning_tokens or 0) + tokens

    @property
    def usage(self) -> Usage:
        """The usage so far."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=self._prompt_tokens + self._completion_tokens,
            prompt_tokens_details=(
                PromptTokensDetails(cached_tokens=sum(self._cached)) if self._details else None
            ),
            completion_tokens_details=(
                None
                if self._reasoning_tokens is None
                else CompletionTokensDetails(reasoning_tokens=self._reasoning_tokens)
            ),
        )
