"""X-Request-Id on every answer (``--enable-request-id-headers``): the client's own, or one that was made."""

from __future__ import annotations

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.serving.request_id import HEADER, is_request_id


class RequestIdMiddleware:
    """Gives the client its id back; an answer that has none gets the one it told, or a fresh one."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER)

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if given is not None and is_request_id(given):
                    headers[HEADER] = given
                else:
                    headers.setdefault(HEADER, uuid.uuid4().hex)
            await send(message)

        await self._app(scope, receive, identified)
