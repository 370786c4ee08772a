"""Bodies of ``/v1/embeddings``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.protocol.base import RequestModel, ResponseModel
from api.protocol.completions import TokenIdPrompt

MAX_INPUTS = 2048
"""Inputs of one request at most."""


class EmbeddingRequest(RequestModel):
    """One or several inputs, as texts or as token ids.

    ``dimensions`` cuts an embedding, which is right for models that were trained for it.
    """

    input: (
        str
        | TokenIdPrompt
        | Annotated[list[str], Field(max_length=MAX_INPUTS, fail_fast=True)]
        | Annotated[list[TokenIdPrompt], Field(max_length=MAX_INPUTS, fail_fast=True)]
        | None
    ) = None
    messages: list[Any] | None = None
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None

    embed_dtype: Literal["float32"] | None = None
    endianness: Literal["native", "little"] | None = None
    use_activation: bool | None = None
    normalize: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None


class Embedding(ResponseModel):
    """Floats, or the base64 text of their little-endian float32 bytes."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ResponseModel):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(ResponseModel):
    """Embeddings in the order of the inputs. ``created`` is in seconds since the epoch."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
