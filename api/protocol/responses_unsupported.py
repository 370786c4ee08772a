"""The written lists of ``/v1/responses``: fields that are refused, and fields without effect."""

from __future__ import annotations

from api.errors import bad_request
from api.protocol.responses import ResponsesRequest
from api.protocol.unsupported import REFUSED, Refusal, check_chat_fields, report_unknown

REFUSED_BY_RESPONSES: dict[str, Refusal] = {
    "conversation": Refusal("There are no stored conversations; use previous_response_id."),
    "prompt": Refusal("There are no stored prompts; send the text itself."),
    "context_management": Refusal("Conversations are not compacted."),
    "image": Refusal("This server reads text only."),
}
"""Refused with a 400 that names them, beside what chats refuse."""

NO_EFFECT_ON_RESPONSES: dict[str, str] = {
    "max_tool_calls": "counts calls of built-in tools; there are none",
    "access_programs": "there are none",
}
"""Accepted, without effect beside what has none on chats."""


def check_response_fields(request: ResponsesRequest, request_id: str, *, strict: bool) -> None:
    """Refuses what cannot be honoured; reports unknown fields.

    Raises:
        ApiError: 400, a field cannot be honoured, or is unknown and ``strict`` refuses it.
    """
    body = request.given
    for name, refusal in {**REFUSED, **REFUSED_BY_RESPONSES}.items():
        declared = name in ResponsesRequest.model_fields
        if name in body and not declared and not refusal.harmless(body[name], body):
            raise bad_request(f"{name} cannot be honoured. {refusal.why}", name)
    check_chat_fields(request, "/v1/responses")
    known = NO_EFFECT_ON_RESPONSES.keys() | REFUSED_BY_RESPONSES.keys() | REFUSED.keys()
    report_unknown(request, request_id, strict=strict, known=known)
