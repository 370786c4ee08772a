"""API keys. Knows the Authorization header and which paths are open; does not know what the routes do."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence, Set

from starlette.types import ASGIApp, Receive, Scope, Send

from api.anthropic_errors import anthropic_path
from api.errors import ApiError

OPEN_PATHS = frozenset({"/", "/health", "/ping", "/version"})
"""Paths served without a key: what load balancers and supervisors probe, and the page (it asks for one)."""


class ApiKeyMiddleware:
    """Lets a request pass only with one of ``keys`` as its bearer token, or to one of ``open_paths``.

    On the paths of Anthropic's API the header ``x-api-key`` may hold the key instead.

    Keys are compared as digests, each with :func:`hmac.compare_digest` and all of them every time, so that
    the time of the answer tells neither how much of a key was right nor which key it was.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Set[str] = OPEN_PATHS):
        self._app = app
        self._open_paths = open_paths
        self._digests = [_digest(key.encode("utf-8", "surrogateescape")) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or self._open(scope) or self._authorized(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "Missing or wrong API key. Send it as 'Authorization: Bearer KEY'.",
            type="invalid_request_error",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await error.response()(scope, receive, send)

    def _open(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        return scope["method"] == "OPTIONS" or path in self._open_paths

    def _authorized(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if not scheme and anthropic_path(scope):  # that API's clients have a header of their own
            scheme, token = b"bearer", headers.get(b"x-api-key", b"")
        given = _digest(token.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(matches) and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
