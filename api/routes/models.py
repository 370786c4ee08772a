"""``/v1/models`` and ``/v1/models/{id}``; ids may have slashes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from api.protocol.models import ModelCard, ModelList
from api.routes.answers import ERRORS
from api.serving.context import ServerContext, get_context

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", summary="List the served models")
async def list_models(context: Annotated[ServerContext, Depends(get_context)]) -> ModelList:
    """All names the model is served under, aliases too."""
    return context.models.list()


@router.get("/v1/models/{model_id:path}", summary="Show one model", responses=ERRORS)
async def retrieve_model(model_id: str, context: Annotated[ServerContext, Depends(get_context)]) -> ModelCard:
    """The model of that name."""
    return context.models.card(model_id)
