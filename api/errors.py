"""OpenAI's error body, and the one place where exceptions become HTTP answers.

Knows statuses, types and how much of a client's input may be echoed. Does not know which checks exist: they
raise :class:`ApiError` (HTTP layer) or :class:`~vllm_jax.errors.InvalidRequestError` (engine and below).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from vllm_jax.errors import EngineDeadError, InvalidRequestError, OverloadedError

logger = logging.getLogger(__name__)

MAX_ERRORS = 10
"""Validation errors reported at most, so that a large bad body cannot ask for a larger answer."""
MAX_INPUT_CHARS = 200
"""Characters of a client's own input echoed at most in each of them."""
MAX_MESSAGE_CHARS = 2000
"""Characters of a whole message at most."""
RETRY_AFTER_S = 5
"""What a 503 tells the client to wait."""


class ApiError(HTTPException):
    """An answer that is an error: HTTP status, message and OpenAI's ``type``, ``param`` and ``code``.

    ``type`` is the status phrase and ``code`` the status itself unless given.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | int | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers = {"Retry-After": str(RETRY_AFTER_S), **(headers or {})}
        super().__init__(status, message, headers)
        self.type = type or HTTPStatus(status).phrase
        self.param = param
        self.code = status if code is None else code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON answer, also the data of a stream's error event."""
        message = printable(str(self.detail), MAX_MESSAGE_CHARS)
        return {"error": {"message": message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body, self.status_code, dict(self.headers or {}))


def bad_request(message: str, param: str | None = None) -> ApiError:
    """A request that is well-formed and cannot be served as it is; ``param`` names the field."""
    return ApiError(400, message, type="BadRequestError", param=param)


def model_not_found(name: str) -> ApiError:
    """No model of that name is served."""
    shown = printable(name, MAX_INPUT_CHARS)
    return ApiError(404, f"The model `{shown}` does not exist.", type="NotFoundError", param="model")


def to_api_error(error: Exception) -> ApiError:
    """The answer for any exception; an unexpected one says nothing of its inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _validation_error(error.errors())
    if isinstance(error, StarletteHTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, InvalidRequestError):
        return bad_request(str(error), error.param)
    if isinstance(error, OverloadedError):
        return ApiError(503, str(error))
    if isinstance(error, EngineDeadError):
        return ApiError(500, "The engine has failed; the server is going down.", type="InternalServerError")
    return ApiError(500, "Internal server error.", type="InternalServerError")


def install_handlers(app: FastAPI) -> None:
    """Makes every error of ``app`` an OpenAI error body; unexpected ones are logged with their traceback."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        found = to_api_error(error)
        if found.status_code in (404, 405) and not isinstance(error, ApiError):
            found.detail = f"{found.detail}: {request.method} {printable(request.url.path, MAX_INPUT_CHARS)}"
        return found.response()

    async def answer_unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again after this answer, and the HTTP server logs its traceback.
        logger.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        return to_api_error(error).response()

    async def nobody_reads_this(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # for the access log; nginx's number for a client that has gone

    app.add_exception_handler(ClientDisconnect, nobody_reads_this)
    for kind in (
        StarletteHTTPException,
        RequestValidationError,
        InvalidRequestError,
        OverloadedError,
        EngineDeadError,
    ):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, answer_unexpected)


def printable(text: str, limit: int) -> str:
    """``text`` with control characters replaced, cut to ``limit`` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in cut)


def _validation_error(errors: Sequence[Any]) -> ApiError:
    lines = [_describe(error) for error in errors[:MAX_ERRORS]]
    if len(errors) > MAX_ERRORS:
        lines.append(f"… and {len(errors) - MAX_ERRORS} more")
    path = _path(errors[0]) if errors else []
    return ApiError(400, "; ".join(lines), param=printable(path[0], MAX_INPUT_CHARS) if path else None)


def _path(error: Mapping[str, Any]) -> list[str]:
    """Where the error is; within a field of several types, the last parts name the type that was tried."""
    return [str(part) for part in error["loc"] if part not in ("body", "query", "path")]


def _describe(error: Mapping[str, Any]) -> str:
    field, given = printable(".".join(_path(error)), MAX_INPUT_CHARS), error.get("input")
    if not field:
        return "The body must be a JSON object, sent with 'Content-Type: application/json'"
    text = f"{field}: {error['msg']} ({error['type']})"
    if error["type"] == "missing" or given is None:
        return text
    return f"{text}, got {_echo(given)}"


def _echo(value: Any) -> str:
    # repr of a container could be as long as the body itself: only scalars are shown.
    if isinstance(value, str):
        return repr(printable(value, MAX_INPUT_CHARS))
    if isinstance(value, bool | int | float):
        return printable(str(value), MAX_INPUT_CHARS)
    return f"a value of type {type(value).__name__}"
