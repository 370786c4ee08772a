"""Health, version, load and metrics: for supervisors, load balancers and Prometheus."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from api.errors import ApiError
from api.serving.context import ServerContext, get_context
from vllm_jax import __version__, metrics

router = APIRouter(tags=["Operation"])

_STATES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Ready"},
    503: {"description": "Dead or shutting down"},
}


@router.get("/health", summary="Is the server ready?", response_class=Response, responses=_STATES)
@router.get("/ping", summary="The same as /health", response_class=Response, responses=_STATES)
@router.post("/ping", summary="The same as /health", response_class=Response, responses=_STATES)
async def health(context: Annotated[ServerContext, Depends(get_context)]) -> Response:
    """200 and no body while requests are served, else 503."""
    if not context.healthy:
        state = "The engine has failed." if context.engine.dead else "The server is shutting down."
        raise ApiError(503, state)
    return Response()


@router.get("/version", summary="The server's version")
async def version() -> dict[str, str]:
    """The version of vllm-jax."""
    return {"version": __version__}


@router.get("/load", summary="Requests in flight")
async def load(context: Annotated[ServerContext, Depends(get_context)]) -> dict[str, int]:
    """How many prompts the engine is answering or has queued."""
    return {"server_load": context.engine.num_requests}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def prometheus(context: Annotated[ServerContext, Depends(get_context)]) -> Response:
    """All metrics in the text format, version 0.0.4."""
    return Response(context.engine.metrics.expose(), headers={"Content-Type": metrics.CONTENT_TYPE})
