"""Which request a log record belongs to. Knows one context variable; does not know how logs look."""

from __future__ import annotations

import logging
from contextvars import ContextVar

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def log_as(request_id: str) -> None:
    """From here on, what the present task logs, its access log included, belongs to ``request_id``."""
    _request_id.set(request_id)


class RequestIdFilter(logging.Filter):
    """Puts ``record.request_id`` on every record: the id, or None outside of a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops nothing."""
        record.request_id = _request_id.get()
        return True
