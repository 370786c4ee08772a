"""``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.limits import StrictRoute
from api.protocol.chat import ChatCompletionRequest, ChatCompletionResponse
from api.routes.answers import GENERATION_ERRORS, with_stream
from api.serving.chat import create_chat_completion
from api.serving.context import ServerContext, get_context

router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses={200: with_stream(ChatCompletionResponse), **GENERATION_ERRORS},
    summary="Answer a conversation",
)
async def chat_completions(
    body: ChatCompletionRequest, request: Request, context: Annotated[ServerContext, Depends(get_context)]
) -> Response:
    """One answer (or ``n``) to a conversation, whole or, with ``stream``, as server-sent events."""
    return await create_chat_completion(context, body, request)
