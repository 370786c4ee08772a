"""``/reset_prefix_cache``: for benchmarks that want every run to begin cold."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

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
    if not context.config.api.enable_reset_prefix_cache:
        raise ApiError(403, "/reset_prefix_cache needs a server started with --enable-reset-prefix-cache.")
    context.engine.reset_prefix_cache()
    return Response()
