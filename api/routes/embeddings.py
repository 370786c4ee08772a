"""``/v1/embeddings``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.limits import StrictRoute
from api.protocol.embeddings import EmbeddingRequest, EmbeddingResponse
from api.routes.answers import GENERATION_ERRORS
from api.serving.context import ServerContext, get_context
from api.serving.embeddings import create_embeddings

router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])


@router.post(
    "/v1/embeddings",
    response_model=None,
    responses={200: {"model": EmbeddingResponse}, **GENERATION_ERRORS},
    summary="Embed texts",
)
async def embeddings(
    body: EmbeddingRequest, request: Request, context: Annotated[ServerContext, Depends(get_context)]
) -> Response:
    """The embedding of each input; a 400 on a model that only generates."""
    return await create_embeddings(context, body, request)
