"""Bodies of ``/v1/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.protocol.base import ResponseModel, Usage
from api.protocol.generation import MAX_LIST, GenerationRequest
from vllm_jax.outputs import FinishReason

MAX_PROMPTS = 1024
"""Prompts of one request at most."""

_Id = Annotated[int, Field(strict=True)]
TokenIdPrompt = Annotated[list[_Id], Field(max_length=MAX_LIST, fail_fast=True)]


class CompletionRequest(GenerationRequest):
    """A text completion request: one or several prompts, as texts or as token ids."""

    prompt: (
        str
        | TokenIdPrompt
        | Annotated[list[str], Field(max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[TokenIdPrompt], Field(max_length=MAX_PROMPTS, fail_fast=True)]
        | None
    ) = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None


class CompletionLogprobs(ResponseModel):
    """Parallel lists, one entry a token.

    ``text_offset`` counts characters from the start of the choice's text. A token that completes no character
    has the offset where its character begins.
    """

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(ResponseModel):
    """One answer: choice ``prompt * n + i``."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None


class CompletionResponse(ResponseModel):
    """The answer to a request that does not stream. ``created`` is in seconds since the epoch."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: Usage
    kv_transfer_params: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None


class CompletionChunk(ResponseModel):
    """One event of a stream; its choices say what is new."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str | None = None
    usage: Usage | None = None
    metrics: dict[str, float] | None = None
