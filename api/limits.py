"""What a request may weigh: headers, body bytes, JSON nesting; and which JSON is accepted at all.

Knows bytes and JSON; does not know what the fields mean.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pydantic_core
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, printable

MAX_NESTING = 64
"""Depth of objects and arrays in a body at most."""


class LimitMiddleware:
    """Refuses requests that weigh more than it says.

    431 for more than ``max_headers`` headers, or more than ``max_head`` bytes in their names and values and
    the request's path and query together; 413 for more than ``max_body`` bytes of body.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, max_head: int, max_headers: int):
        self._app = app
        self._max_body = max_body
        self._max_head = max_head
        self._max_headers = max_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if too_much := self._excess(scope):
            await ApiError(431, too_much).response()(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._max_body:
            await self._too_large().response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:  # a chunked body declares no length
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_body:
                    raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _excess(self, scope: Scope) -> str | None:
        if len(scope["headers"]) > self._max_headers:
            return f"The request has more than {self._max_headers} headers."
        target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if target + sum(len(name) + len(value) for name, value in scope["headers"]) > self._max_head:
            return f"The request's URL and headers are larger than {self._max_head} bytes."
        return None

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request's body is larger than {self._max_body} bytes.")


class StrictRequest(Request):
    """A request whose JSON is parsed strictly: no NaN or Infinity, no lone surrogates, bounded nesting."""

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            ApiError: 400, the body is not such JSON.
        """
        if not hasattr(self, "_parsed"):
            self._parsed = parse_json(await self.body())
        return self._parsed


class StrictRoute(APIRoute):
    """A route that reads its body through :class:`StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The ASGI-facing handler."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def parse_json(data: bytes) -> Any:
    """Parses a body.

    Raises:
        ApiError: 400, ``data`` is no JSON by the letter of RFC 8259, or nests deeper than ``MAX_NESTING``.
    """
    try:
        value = pydantic_core.from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {printable(str(error), 200)}") from None
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_NESTING):
        if not level:
            return value
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
    if level:
        raise ApiError(400, f"The body nests objects and arrays deeper than {MAX_NESTING} levels.")
    return value
