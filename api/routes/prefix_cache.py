"""``/reset_prefix_cache`` and its kin: for benchmarks that want every run to begin cold."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.errors import ApiError
from api.routes.answers import ERRORS
from api.serving.context import ServerContext, get_context

router = APIRouter(tags=["Operation"])


@router.post(
    "/reset_prefix_cache", summary="Empty the prefix cache", response_class=Response, responses=ERRORS
)
async def reset_prefix_cache(context: Annotated[ServerContext, Depends(get_context)]) -> Response:
    """No request that comes after this one finds a prefix of an earlier one; those in flight go on.

    403 unless the server was started with --enable-reset-prefix-cache.
    """
    _check_allowed(context, "/reset_prefix_cache")
    context.engine.reset_prefix_cache()
    return Response()


@router.post("/reset_mm_cache", summary="Nothing to empty", response_class=Response, responses=ERRORS)
@router.post("/reset_encoder_cache", summary="Nothing to empty", response_class=Response, responses=ERRORS)
async def reset_other_caches(
    request: Request, context: Annotated[ServerContext, Depends(get_context)]
) -> Response:
    """Does nothing: no model here reads images or sound, so that there is no such cache.

    403 unless the server was started with --enable-reset-prefix-cache.
    """
    _check_allowed(context, request.scope["route"].path)
    return Response()


def _check_allowed(context: ServerContext, path: str) -> None:
    if not context.config.api.enable_reset_prefix_cache:
        raise ApiError(403, f"{path} needs a server started with --enable-reset-prefix-cache.")
