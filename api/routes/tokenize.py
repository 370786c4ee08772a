"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from api.limits import StrictRoute
from api.protocol.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from api.routes.answers import ERRORS
from api.serving import tokenize as serving
from api.serving.context import ServerContext, get_context

router = APIRouter(route_class=StrictRoute, tags=["Tokenizer"])


@router.post("/tokenize", summary="Text or messages to token ids", responses=ERRORS)
async def tokenize(
    body: TokenizeRequest, context: Annotated[ServerContext, Depends(get_context)]
) -> TokenizeResponse:
    """The token ids the model would see."""
    return await serving.tokenize(context, body)


@router.post("/detokenize", summary="Token ids to text", responses=ERRORS)
async def detokenize(
    body: DetokenizeRequest, context: Annotated[ServerContext, Depends(get_context)]
) -> DetokenizeResponse:
    """The text of token ids."""
    return await serving.detokenize(context, body)


@router.get("/tokenizer_info", summary="Special tokens and chat template", responses=ERRORS)
async def tokenizer_info(context: Annotated[ServerContext, Depends(get_context)]) -> TokenizerInfo:
    """The tokenizer's facts, where the server was started with --enable-tokenizer-info-endpoint; else 404."""
    return serving.tokenizer_info(context)
