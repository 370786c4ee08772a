"""Counts and times HTTP answers. Knows routes and statuses; does not know what is served."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_jax.metrics import Metrics

_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})


class HttpMetricsMiddleware:
    """Reports every answer to :class:`~vllm_jax.metrics.Metrics` under its route's pattern."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.monotonic()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            # Raw paths and made-up methods would let a client make labels without end.
            route = scope.get("route")
            self._metrics.on_http(
                method=scope["method"] if scope["method"] in _METHODS else "other",
                handler=getattr(route, "path", "none"),
                status=status,
                seconds=time.monotonic() - start,
            )
