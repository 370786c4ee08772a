"""``/``: a page for a person, with the model, the live load and a chat box to try it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.page import PAGE

router = APIRouter()

# Scripts and styles are in the page itself; it may talk to its own server only, and be framed by nobody.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The page. It needs no key; what it asks the server for does, and it has a field for the key."""
    return Response(PAGE, media_type="text/html; charset=utf-8", headers=_HEADERS)
