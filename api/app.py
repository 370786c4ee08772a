"""The FastAPI application: routes, middleware and error bodies around one engine."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline

from api.anthropic_errors import AnthropicErrorMiddleware
from api.auth import OPEN_PATHS, ApiKeyMiddleware
from api.errors import install_handlers
from api.http_metrics import HttpMetricsMiddleware
from api.limits import LimitMiddleware
from api.middleware import add_imported
from api.request_id_header import RequestIdMiddleware
from api.root_path import RootPathMiddleware
from api.routes import (
    chat,
    completions,
    embeddings,
    health,
    invocations,
    lora,
    messages,
    models,
    page,
    prefix_cache,
    responses,
    tokenize,
)
from api.serving.context import ServerContext
from api.trailing_slash import TrailingSlashMiddleware
from vllm_jax import __version__

DESCRIPTION = """
An OpenAI-compatible server on JAX. Point any OpenAI client at `/v1` of this server.

Every parameter is honoured exactly or refused with a 400 that names it.
"""


def create_app(context: ServerContext) -> FastAPI:
    """The application that serves ``context``; it starts and stops nothing."""
    http = context.config.http
    root_path = http.root_path.rstrip("/")
    docs = not http.disable_fastapi_docs
    # The offline kind brings the scripts of /docs and /redoc along; without docs it would refuse to start.
    app = (FastAPIOffline if docs else FastAPI)(
        title="vllm-jax",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/openapi.json" if docs else None,
        docs_url="/docs" if docs else None,
        redoc_url="/redoc" if docs else None,
        redirect_slashes=False,
        # Not uvicorn's setting: that one would put it before paths that have it already.
        root_path=root_path,
    )
    app.state.context = context
    install_handlers(app)
    modules = (
        chat,
        completions,
        embeddings,
        responses,
        messages,
        models,
        tokenize,
        health,
        prefix_cache,
        lora,
        invocations,
        page,
    )
    for module in modules:
        app.include_router(module.router)
    # The last one added is the outermost.
    if http.api_key:
        open_paths = OPEN_PATHS | ({"/metrics"} if http.metrics_without_key else set())
        app.add_middleware(ApiKeyMiddleware, keys=http.api_key, open_paths=open_paths)
    app.add_middleware(
        LimitMiddleware,
        max_body=http.max_body_bytes,
        max_head=http.h11_max_incomplete_event_size,
        max_headers=http.h11_max_header_count,
    )
    app.add_middleware(AnthropicErrorMiddleware)
    if context.config.api.enable_request_id_headers:
        app.add_middleware(RequestIdMiddleware)
    if http.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=http.allowed_origins,
            allow_methods=http.allowed_methods,
            allow_headers=http.allowed_headers,
            allow_credentials=http.allow_credentials,
        )
    add_imported(app, http.middleware)
    app.add_middleware(HttpMetricsMiddleware, metrics=context.engine.metrics)
    if root_path:
        app.add_middleware(RootPathMiddleware, root_path=root_path)
    app.add_middleware(TrailingSlashMiddleware)
    return app
