"""The id of a request: the client's own, or a fresh one. Knows two headers and nothing of the answer."""

from __future__ import annotations

import logging
import uuid

from fastapi import Request

from api.errors import bad_request

logger = logging.getLogger(__name__)

MAX_LENGTH = 128
HEADER = "x-request-id"
_PRIORITY_HEADER = "x-vllm-priority"


def choose_request_id(request: Request, in_body: str | None) -> str:
    """The header X-Request-Id, else the body's ``request_id``, else a fresh id.

    A header that is too long counts as none, since proxies set it, too: no client could do anything about it.

    Raises:
        ApiError: 400, the client's id is empty, too long (in the body), or has unprintable characters.
    """
    header = request.headers.get(HEADER)
    if header is not None and len(header) > MAX_LENGTH:
        logger.warning("X-Request-Id of %d characters is ignored: %d at most", len(header), MAX_LENGTH)
        header = None
    for name, value in (("X-Request-Id", header), ("request_id", in_body)):
        if value is None:
            continue
        if not is_request_id(value):
            raise bad_request(f"{name} must have 1 to {MAX_LENGTH} printable ASCII characters.", name)
        return value
    return uuid.uuid4().hex


def is_request_id(value: str) -> bool:
    """Whether a client may call its request so."""
    return 1 <= len(value) <= MAX_LENGTH and value.isascii() and value.isprintable()


def choose_priority(request: Request, in_body: int | None) -> int:
    """The header X-Vllm-Priority, else the body's ``priority``, else 0.

    Raises:
        ApiError: 400, it is no 64-bit integer.
    """
    header = request.headers.get(_PRIORITY_HEADER)
    name = "priority" if header is None else "X-Vllm-Priority"
    try:
        priority = (in_body or 0) if header is None else int(header)
    except ValueError:
        raise bad_request("X-Vllm-Priority must be an integer.", name) from None
    if not -(2**63) <= priority < 2**63:
        raise bad_request(f"{name} must be a 64-bit integer.", name)
    return priority
