"""``/v1/messages``: Anthropic's API upon the same core as chats."""

from __future__ import annotations

from fastapi import Request, Response

from api.anthropic_errors import error_event
from api.protocol.messages import MessagesRequest, PromptFields
from api.protocol.messages_unsupported import check_message_fields
from api.serving.answer import id_headers, json_response
from api.serving.context import ServerContext
from api.serving.message_input import OWN_NAMES, chat_request
from api.serving.message_output import MessageBuilder
from api.serving.request_id import choose_request_id
from api.serving.response_input import own_names
from api.serving.streams import exhaust, wait_for_first, while_connected
from api.serving.turn import prepare_turn, start_turn
from api.sse import EventStream, typed_event_stream


async def create_message(context: ServerContext, body: MessagesRequest, request: Request) -> Response:
    """Answers a request for a message.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field is named.
        EngineDeadError: the engine has failed.
        ClientDisconnect: the client has gone; the request was aborted.
    """
    message_id = f"msg_{choose_request_id(request, body.request_id)}"
    check_message_fields(body, message_id, strict=context.config.api.strict_params)
    with own_names(OWN_NAMES):
        chat = chat_request(body)
        starting = start_turn(context, chat, request, message_id, streamed=bool(body.stream))
        turn = await while_connected(request.receive, starting)
    info = context.engine.info
    told = context.config.api.enable_prompt_tokens_details and info.enable_prefix_caching
    builder = MessageBuilder(message_id, turn, cache_block=info.block_size if told else None)
    headers = {"request-id": message_id, **id_headers(message_id, context.config)}
    if not body.stream:
        await while_connected(request.receive, exhaust(builder.events()))
        return json_response(builder.message, headers)
    keep_alive_s = context.config.http.sse_keep_alive_interval
    events = await wait_for_first(request.receive, builder.events(), keep_alive_s or None)
    encoded = typed_event_stream(events, failed=error_event, keep_alive_s=keep_alive_s)
    return EventStream(encoded, headers)


async def count_tokens(context: ServerContext, body: PromptFields) -> int:
    """Tokens of the prompt that a request would have. Raises as :func:`create_message`."""
    check_message_fields(body, "count_tokens", strict=context.config.api.strict_params)
    with own_names(OWN_NAMES):
        _, prompt, _ = await prepare_turn(context, chat_request(body), "count_tokens")
    return len(prompt.token_ids)
