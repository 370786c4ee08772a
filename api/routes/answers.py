"""What the endpoints may answer, for /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """``param`` names the offending field, ``code`` is the HTTP status or a word for it."""

    message: str
    type: str
    param: str | None
    code: int | str | None


class ErrorResponse(BaseModel):
    """Every error of this server."""

    error: ErrorDetail


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorResponse, "description": description}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request cannot be honoured; the message says which field and why"),
    "4XX": _error("Missing or wrong API key (401), no such model (404), body too large (413)"),
}
GENERATION_ERRORS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    500: _error("The engine has failed"),
    503: _error(
        "The server is shutting down, or too many requests wait; Retry-After says when to come again"
    ),
}


def with_stream(model: type[BaseModel]) -> dict[str, Any]:
    """A whole answer, or server-sent events (the schema is that of one) that end with ``data: [DONE]``."""
    event = {
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "required": ["data"],
    }
    return {"model": model, "content": {"text/event-stream": {"schema": event}}}
