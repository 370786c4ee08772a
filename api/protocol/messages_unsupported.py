"""The written lists of ``/v1/messages``: fields that are refused, and fields without effect."""

from __future__ import annotations

from api.errors import bad_request
from api.protocol.base import RequestModel
from api.protocol.unsupported import REFUSED, Refusal, check_chat_fields, report_unknown

REFUSED_BY_MESSAGES: dict[str, Refusal] = {
    "container": Refusal("There are no containers."),
    "mcp_servers": Refusal("The server calls no other server.", lambda value, body: value == []),
    "context_management": Refusal("Conversations are not edited."),
}
"""Refused with a 400 that names them, beside what chats refuse."""

NO_EFFECT_ON_MESSAGES: dict[str, str] = {
    "metadata": "a label of the end user",
    "cache_control": "the prefix cache finds equal prefixes by itself",
    "service_tier": "there is one tier",
    "inference_geo": "there is one place",
    "speed": "there is one speed",
    "diagnostics": "nothing is stored",
    "betas": "nothing depends on them",
    "user_profile_id": "nothing is stored",
    "workspace_id": "there is one workspace",
}
"""Accepted, without effect beside what has none on chats."""


def check_message_fields(request: RequestModel, request_id: str, *, strict: bool) -> None:
    """Refuses what cannot be honoured; reports unknown fields.

    Raises:
        ApiError: 400, a field cannot be honoured, or is unknown and ``strict`` refuses it.
    """
    body, declared = request.given, type(request).model_fields
    for name, refusal in {**REFUSED, **REFUSED_BY_MESSAGES}.items():
        if name in body and name not in declared and not refusal.harmless(body[name], body):
            raise bad_request(f"{name} cannot be honoured. {refusal.why}", name)
    check_chat_fields(request, "/v1/messages")
    known = NO_EFFECT_ON_MESSAGES.keys() | REFUSED_BY_MESSAGES.keys() | REFUSED.keys()
    report_unknown(request, request_id, strict=strict, known=known)
