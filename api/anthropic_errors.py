"""Errors of ``/v1/messages`` in the shape that Anthropic's clients read.

Knows the two shapes and nothing of what went wrong: every error of the server is written as OpenAI's, and
rewritten here for the paths of this API, whoever wrote it (routes, keys, limits).
"""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, to_api_error

logger = logging.getLogger(__name__)

PREFIX = "/v1/messages"

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_path(scope: Scope) -> bool:
    """Whether a request is one of Anthropic's API."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path == PREFIX or path.startswith(PREFIX + "/")


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """The body, and the event, of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def error_event(error: ApiError) -> dict[str, Any]:
    """The event that ends a stream which has failed."""
    return anthropic_error(error.status_code, error.body["error"]["message"])


class AnthropicErrorMiddleware:
    """Rewrites the errors of this server on the paths of Anthropic's API."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or not anthropic_path(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def rewritten(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    await _send_error(start, body, send)

        began = False

        async def watched(message: Message) -> None:
            nonlocal began
            began = True
            await rewritten(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if not began:
                logger.error("%s %s failed: %s", scope["method"], scope["path"], type(error).__name__)
                found = to_api_error(error)
                await JSONResponse(error_event(found), found.status_code)(scope, receive, send)
            raise  # the HTTP server logs its traceback


async def _send_error(start: Message, body: bytes, send: Send) -> None:
    try:
        error = json.loads(body)["error"]
        body = json.dumps(anthropic_error(start["status"], _with_param(error))).encode()
    except (ValueError, KeyError, TypeError):
        pass  # not one of ours
    MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _with_param(error: dict[str, Any]) -> str:
    """The message, with the name of the field in front where it does not say it: there is no field for it."""
    message, param = str(error["message"]), error.get("param")
    return message if param is None or str(param) in message else f"{param}: {message}"
