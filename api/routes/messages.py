"""``/v1/messages`` and ``/v1/messages/count_tokens``: Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from api.limits import StrictRoute
from api.protocol.messages import Message, MessagesRequest, PromptFields, TokenCount
from api.routes.answers import with_stream
from api.serving import messages as serving
from api.serving.context import ServerContext, get_context

router = APIRouter(route_class=StrictRoute, tags=["Anthropic"], prefix="/v1/messages")


class MessageErrorDetail(BaseModel):
    """The kind of the error, and what to do about it."""

    type: str
    message: str


class MessageError(BaseModel):
    """Every error of these endpoints."""

    type: str
    error: MessageErrorDetail


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": MessageError, "description": "The request cannot be honoured"},
    "4XX": {
        "model": MessageError,
        "description": "Wrong API key (401), no such model (404), too large (413)",
    },
    500: {"model": MessageError, "description": "The engine has failed"},
    503: {"model": MessageError, "description": "Shutting down, or too many requests wait"},
}


@router.post(
    "",
    response_model=None,
    responses={200: with_stream(Message), **_ERRORS},
    summary="Answer a conversation (Anthropic's API)",
)
async def create_message(
    body: MessagesRequest, request: Request, context: Annotated[ServerContext, Depends(get_context)]
) -> Response:
    """One message, whole or, with ``stream``, as typed events. An ``x-api-key`` header is a key too."""
    return await serving.create_message(context, body, request)


@router.post("/count_tokens", summary="Count a request's prompt tokens", responses=_ERRORS)
async def count_tokens(
    body: PromptFields, context: Annotated[ServerContext, Depends(get_context)]
) -> TokenCount:
    """Tokens of the prompt that the same request to /v1/messages would have."""
    return TokenCount(input_tokens=await serving.count_tokens(context, body))
