"""``--root-path``: the prefix of a proxy, which may take it away or leave it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPathMiddleware:
    """Puts the prefix back where a proxy took it away: mounted applications look for it in the path."""

    def __init__(self, app: ASGIApp, root_path: str):
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path != self._root_path and not path.startswith(self._root_path + "/"):
                scope = {**scope, "path": self._root_path + path}
        await self._app(scope, receive, send)
