"""``/v1/completions``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.limits import StrictRoute
from api.protocol.completions import CompletionRequest, CompletionResponse
from api.routes.answers import GENERATION_ERRORS, with_stream
from api.serving.completions import create_completion
from api.serving.context import ServerContext, get_context

router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])


@router.post(
    "/v1/completions",
    response_model=None,
    responses={200: with_stream(CompletionResponse), **GENERATION_ERRORS},
    summary="Continue text",
)
async def completions(
    body: CompletionRequest, request: Request, context: Annotated[ServerContext, Depends(get_context)]
) -> Response:
    """Continuations of one or several prompts, whole or, with ``stream``, as server-sent events."""
    return await create_completion(context, body, request)
