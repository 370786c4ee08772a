"""Uvicorn's h11 protocol with this server's error body. Knows requests that never become requests."""

from __future__ import annotations

import json
import sys

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from api.errors import ApiError


class JsonH11Protocol(H11Protocol):
    """h11 is the one of uvicorn's parsers that bounds the size of a request's head.

    What it cannot read at all gets its answer here, since no application ever sees it.
    """

    def send_400_response(self, msg: str) -> None:
        """Answers 400, or 431 where the head is too large, and hangs up."""
        problem = sys.exception()
        status = 400
        if isinstance(problem, h11.RemoteProtocolError) and problem.error_status_hint == 431:
            status, msg = 431, "The request's URL and headers are too large."
        data = json.dumps(ApiError(status, msg).body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(data)).encode()),
            (b"connection", b"close"),
        ]
        reason = STATUS_PHRASES[status]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=data),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()
