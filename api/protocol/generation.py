"""The fields that chat and text completions share.

Types only: ranges and combinations are checked once, by :class:`~vllm_jax.sampling_params.SamplingParams`
and the engine. ``null`` means the same as leaving a field out, everywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.protocol.base import StreamOptions
from api.protocol.structured import StructuredRequest

MAX_LIST = 1 << 20
"""Entries of a list at most, before anything looks at them."""

TokenIds = Annotated[list[int], Field(max_length=MAX_LIST)]


class GenerationRequest(StructuredRequest):
    """Sampling, stopping, logprobs, prompt handling and request control."""

    model: str | None = None
    """Name of the model; the base model where it is left out."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    n: int | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[list[str], Field(max_length=1024)] | None = None

    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | Annotated[list[str], Field(max_length=1024)] | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None

    prompt_logprobs: int | None = None
    logprob_token_ids: TokenIds | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    echo: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None

    use_beam_search: bool | None = None
    length_penalty: float | None = None

    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream has usage."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)
