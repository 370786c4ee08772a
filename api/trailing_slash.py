"""Paths that end in a slash are answered as without it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlashMiddleware:
    """Takes the slash away in front of everything that looks at the path, keys included.

    A redirect, as routers do it, is not followed by every client, and tells the address of a proxied server.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.endswith("/") and path.removeprefix(scope.get("root_path", "")) != "/":
                scope = {**scope, "path": path[:-1]}
        await self._app(scope, receive, send)
