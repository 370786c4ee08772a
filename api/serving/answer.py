"""What the answers of all generating endpoints share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from api.errors import ApiError
from api.protocol.generation import GenerationRequest
from api.server_config import ServerConfig
from api.serving.request_id import HEADER
from vllm_jax import __version__
from vllm_jax.outputs import CompletionOutput

SYSTEM_FINGERPRINT = f"vllm-jax-{__version__}"
"""``system_fingerprint`` of every answer: seeded answers may change with the version of the server."""


@dataclass(frozen=True)
class AnswerHead:
    """``id``, the served name, and ``created`` in seconds since the epoch."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that open every answer and every chunk."""
        return {
            "id": self.id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }


@dataclass(frozen=True)
class AnswerOptions:
    """What a request, together with the server's flags, wants to see in its answer."""

    token_ids: bool
    tokens_as_ids: bool
    usage: bool
    continuous_usage: bool
    prompt_details: bool
    timing: bool

    @classmethod
    def of(cls, body: GenerationRequest, config: ServerConfig, *, has_tokenizer: bool) -> AnswerOptions:
        """Without a tokenizer there is no text, so that token ids are always shown."""
        forced = config.api.enable_force_include_usage
        as_ids = body.return_tokens_as_token_ids
        return cls(
            token_ids=bool(body.return_token_ids) or not has_tokenizer,
            tokens_as_ids=config.api.return_tokens_as_token_ids if as_ids is None else as_ids,
            usage=body.include_usage or forced,
            continuous_usage=body.continuous_usage or forced,
            prompt_details=config.api.enable_prompt_tokens_details,
            timing=config.api.enable_per_request_metrics,
        )


def id_headers(request_id: str, config: ServerConfig) -> dict[str, str]:
    """X-Request-Id, where the server was told to send it."""
    return {HEADER: request_id} if config.api.enable_request_id_headers else {}


def json_response(answer: BaseModel, headers: dict[str, str]) -> Response:
    """A whole answer; nulls are shown."""
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)


def check_finish(output: CompletionOutput) -> None:
    """Raises ApiError (500) if the engine could not make this sequence's output."""
    if output.finish_reason == "error":
        raise ApiError(500, "The answer could not be generated.", type="InternalServerError")
