"""``/v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.limits import StrictRoute
from api.protocol.chat import ChatCompletionRequest, ChatCompletionResponse
from api.protocol.chat_batch import ChatBatchRequest
from api.routes.answers import GENERATION_ERRORS, with_stream
from api.serving.chat import create_chat_completion
from api.serving.chat_batch import create_chat_batch
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


@router.post(
    "/v1/chat/completions/batch",
    response_model=None,
    responses={200: {"model": ChatCompletionResponse}, **GENERATION_ERRORS},
    summary="Answer many conversations",
)
async def chat_completions_batch(
    body: ChatBatchRequest, request: Request, context: Annotated[ServerContext, Depends(get_context)]
) -> Response:
    """``messages`` is a list of conversations; choice ``i`` answers conversation ``i``. Not streamed."""
    return await create_chat_batch(context, body, request)
