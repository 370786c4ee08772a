"""The written lists behind "honoured or refused": fields this server refuses, and fields without effect.

A field that is in neither list and in no model is unknown: it is accepted, and reported in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from api.errors import bad_request, printable
from api.protocol.base import RequestModel
from api.protocol.chat import ChatCompletionRequest

logger = logging.getLogger(__name__)

_MAX_REPORTED = 10


@dataclass(frozen=True)
class Refusal:
    """A field that cannot be honoured. ``harmless`` tells values that ask for nothing (null always does).

    ``elsewhere``: requests of a kind that declares the field honour it.
    """

    why: str
    harmless: Callable[[Any, Mapping[str, Any]], bool] = lambda value, body: False
    elsewhere: bool = False


def _false(value: Any, body: Mapping[str, Any]) -> bool:
    return value is False


_CHATS = "Only /v1/chat/completions takes tools."

REFUSED: dict[str, Refusal] = {
    **{
        name: Refusal(_CHATS, lambda value, body: value == "none", elsewhere=True)
        for name in ("tools", "tool_choice", "functions", "function_call")
    },
    "structural_tag": Refusal("It belongs into structured_outputs or response_format."),
    "best_of": Refusal(
        "Only /v1/completions ranks sequences; here all n are returned.",
        lambda value, body: value == body.get("n", 1),
        elsewhere=True,
    ),
    "suffix": Refusal("Filling in the middle is not supported.", lambda value, body: value == ""),
    "prompt_embeds": Refusal(
        "Prompt embeddings are not supported; send text or token ids.", lambda value, body: value == []
    ),
    "audio": Refusal("This server answers with text only."),
    "modalities": Refusal("This server answers with text only.", lambda value, body: value == ["text"]),
    "thinking_token_budget": Refusal("Thinking budgets are not supported by this version of the server."),
    "repetition_detection": Refusal("Repetition detection is not supported by this version of the server."),
    "watermarking": Refusal("Watermarking is not supported."),
    "kv_transfer_params": Refusal(
        "KV is never moved between servers, and a prompt of token ids goes to /v1/completions.",
        lambda value, body: not (isinstance(value, dict) and value.get("prompt_token_ids")),
    ),
    "return_prompt_text": Refusal("Use echo (completions) to get the prompt back.", _false),
}
"""Fields refused with a 400 that names them, unless their value asks for nothing."""

NO_EFFECT: dict[str, str] = {
    "user": "a label of the end user; nothing is stored",
    "safety_identifier": "a label of the end user; nothing is stored",
    "metadata": "labels for stored answers; nothing is stored",
    "store": "answers are never stored",
    "service_tier": "there is one tier",
    "moderation": "nothing is moderated",
    "prompt_cache_key": "the prefix cache finds equal prefixes by itself; cache_salt separates them",
    "prompt_cache_options": "the prefix cache finds equal prefixes by itself",
    "prompt_cache_retention": "the prefix cache evicts by use",
    "prediction": "only changes speed",
    "verbosity": "the model has no such setting",
    "web_search_options": "the server never fetches anything",
    "stream_interval": "every step is sent; a slow reader gets larger chunks",
    "vllm_xargs": "for plugins; there are none",
    "return_weight_versions": "weights are never exchanged while serving",
    "session_id": "requests are not tied to each other",
    "guided_decoding_backend": "there is one backend",
}
"""Fields of OpenAI and vLLM that are accepted and change nothing here, with the reason."""


def check_fields(request: RequestModel, request_id: str, *, strict: bool) -> None:
    """Refuses what cannot be honoured; reports unknown fields in the log, or refuses them where ``strict``.

    Raises:
        ApiError: 400, a field of ``REFUSED`` asks for something, or a field is unknown; ``param`` names it.
    """
    body = request.given
    for name, refusal in REFUSED.items():
        if refusal.elsewhere and name in type(request).model_fields:
            continue
        if name in body and not refusal.harmless(body[name], body):
            raise bad_request(f"{name} cannot be honoured. {refusal.why}", name)
    report_unknown(request, request_id, strict=strict, known=REFUSED.keys())


def check_chat_fields(request: RequestModel, path: str) -> None:
    """Refuses fields that chats have and this endpoint has not, where they ask for something.

    They would be unknown here and pass with a warning, although the client means what a chat does with them.

    Raises:
        ApiError: 400, there is such a field; ``param`` names it.
    """
    declared = type(request).model_fields
    for name, value in request.given.items():
        foreign = name in ChatCompletionRequest.model_fields and name not in declared
        nothing = value in (False, "", [], {}) or (name == "n" and value == 1)
        if foreign and name not in NO_EFFECT and not nothing:
            raise bad_request(f"{name} is a field of chats; {path} has none of that name.", name)


def report_unknown(
    request: RequestModel, request_id: str, *, strict: bool, known: Set[str] = frozenset()
) -> None:
    """Names the fields that are in no model and no list in the log: they are accepted and ignored.

    ``known`` are names of the endpoint's own lists.

    Raises:
        ApiError: 400, there are such fields and ``strict`` refuses them; ``param`` is the first of them.
    """
    extra = sorted(request.unknown - NO_EFFECT.keys() - known)
    if not extra:
        return
    # A line break in a name could pass for a line of the log.
    shown = ", ".join(printable(name, 64).replace("\n", " ") for name in extra[:_MAX_REPORTED])
    if strict:
        raise bad_request(
            f"This server refuses unknown fields (--strict-params): {shown}.", printable(extra[0], 64)
        )
    logger.warning("%s: unknown fields are ignored: %s", request_id, shown)
