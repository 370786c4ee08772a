"""``/v1/responses``: create (whole, streamed or in the background), and what can be done with stored ones."""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi import Response as HttpResponse

from api.errors import ApiError, bad_request
from api.protocol.chat import ChatCompletionRequest
from api.protocol.responses import InputItemList, RawMessage, Response, ResponsesRequest
from api.protocol.responses_unsupported import check_response_fields
from api.serving.answer import id_headers, json_response
from api.serving.context import ServerContext
from api.serving.request_id import choose_request_id
from api.serving.response_input import Item, chat_request, input_items, own_names, referred
from api.serving.response_output import StreamEvent
from api.serving.response_run import BackgroundRun, ResponseRun
from api.serving.response_store import StoredResponse
from api.serving.streams import exhaust, wait_for_first, while_connected
from api.serving.turn import Turn, prepare_turn, start_turn
from api.sse import EventStream, typed_event_stream
from vllm_jax.errors import InvalidRequestError
from vllm_jax.sampling_params import SamplingParams


async def create_response(context: ServerContext, body: ResponsesRequest, request: Request) -> HttpResponse:
    """Answers a request for a response.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field is named.
        EngineDeadError: the engine has failed.
        ClientDisconnect: the client has gone; the request was aborted.
    """
    request_id = f"resp_{choose_request_id(request, body.request_id)}"
    check_response_fields(body, request_id, strict=context.config.api.strict_params)
    store, owner = _stores(context, body), _owner(request)
    # What is stored has an id that no client has chosen: it could be that of one that is there.
    response_id = f"resp_{uuid.uuid4().hex}" if store else request_id
    earlier, own = _conversation(context, body, owner)
    with contextlib.ExitStack() as on_failure:
        if body.background:
            context.background.take()
            on_failure.callback(context.background.give_back)
        with own_names():
            chat = await while_connected(
                request.receive, _chat_request(context, body, [*earlier, *own], request_id)
            )
            starting = start_turn(context, chat, request, request_id, streamed=bool(body.stream))
            turn = await while_connected(request.receive, starting)
        response = _response(response_id, body, turn, store=store)
        run = ResponseRun(response, turn, cached_tokens=context.config.api.enable_prompt_tokens_details)
        stored = StoredResponse(response, own, owner)
        if body.background:
            background = BackgroundRun(
                run, ended=lambda: context.responses.measure(stored), released=context.background.give_back
            )
        on_failure.pop_all()
    headers = id_headers(request_id, context.config)
    if body.background:
        stored.run = background
        context.responses.put(stored)
        if body.stream:
            return _stream(context, background.follow(), headers)
        return json_response(response, headers)
    events = _kept(context, run, stored) if store else run.events()
    if body.stream:
        keep_alive_s = context.config.http.sse_keep_alive_interval
        return _stream(context, await wait_for_first(request.receive, events, keep_alive_s or None), headers)
    await while_connected(request.receive, exhaust(events))
    if run.failure is not None:
        raise run.failure
    return json_response(response, headers)


async def count_input_tokens(context: ServerContext, body: ResponsesRequest, request: Request) -> int:
    """Tokens of the prompt that a request would have. Raises as :func:`create_response`."""
    check_response_fields(body, "input_tokens", strict=context.config.api.strict_params)
    earlier, own = _conversation(context, body, _owner(request))
    with own_names():
        chat = chat_request(body, [*earlier, *own], body.instructions)
        _, prompt, _ = await prepare_turn(context, chat, "input_tokens")
    return len(prompt.token_ids)


def retrieve_response(
    context: ServerContext, response_id: str, request: Request, *, stream: bool, starting_after: int | None
) -> HttpResponse:
    """A stored response, or the events of one that is made in the background.

    Raises:
        ApiError: 404, there is none; 400, its events are not kept.
    """
    stored = context.responses.get(response_id, _owner(request))
    if not stream:
        return json_response(stored.response, {})
    if not isinstance(stored.run, BackgroundRun):
        raise bad_request(
            "Only a response that was created with background=true can be streamed again.", "stream"
        )
    return _stream(context, stored.run.follow(-1 if starting_after is None else starting_after), {})


async def cancel_response(context: ServerContext, response_id: str, request: Request) -> Response:
    """Ends a background response. Raises ApiError: 404, there is none; 400, it is not one."""
    stored = context.responses.get(response_id, _owner(request))
    if not isinstance(stored.run, BackgroundRun):
        raise bad_request(
            "Cannot cancel a synchronous response. Only one that was created with background=true can be."
        )
    await stored.run.cancel()
    return stored.response


async def delete_response(context: ServerContext, response_id: str, request: Request) -> None:
    """Forgets a stored response; one in the background ends. Raises ApiError (404)."""
    stored = context.responses.delete(response_id, _owner(request))
    if isinstance(stored.run, BackgroundRun):
        await stored.run.cancel()


def list_input_items(
    context: ServerContext, response_id: str, request: Request, *, limit: int, order: str, after: str | None
) -> InputItemList:
    """A page of the input that a stored response has answered.

    Raises:
        ApiError: 404, there is no such response; 400, ``after`` is none of its items.
    """
    items = list(context.responses.get(response_id, _owner(request)).input)
    if order == "desc":
        items.reverse()
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise bad_request("after is the id of no item of this response.", "after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    return InputItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(items) > limit,
    )


async def _chat_request(
    context: ServerContext, body: ResponsesRequest, items: Sequence[Item], request_id: str
) -> ChatCompletionRequest:
    """The chat that answers ``items``; with truncation "auto" the oldest turns go until the prompt fits."""
    whole = chat_request(body, items, body.instructions)
    if body.truncation != "auto":
        return whole
    limit = context.engine.info.max_model_len
    room = min(body.max_output_tokens or limit // 8, limit - 1)

    def kept(cut: int) -> ChatCompletionRequest:
        always = [item for item in items[:cut] if item.get("role") in ("system", "developer")]
        return chat_request(body, [*always, *items[cut:]], body.instructions)

    async def fits(chat: ChatCompletionRequest) -> bool:
        try:
            _, prompt, _ = await prepare_turn(context, chat, request_id)
        except (ApiError, InvalidRequestError) as error:
            if error.param != "input_tokens":
                raise
            return False
        return len(prompt.token_ids) + room <= limit

    if await fits(whole):
        return whole
    # Turns begin with a user's message: cut there, no call is parted from its result.
    cuts = [i for i, item in enumerate(items) if i and item.get("role") == "user"] or [0]
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high) // 2
        if await fits(kept(cuts[middle])):
            high = middle
        else:
            low = middle + 1
    return kept(cuts[low])


def _response(response_id: str, body: ResponsesRequest, turn: Turn, *, store: bool) -> Response:
    params: SamplingParams = turn.params
    text = body.text.given if body.text is not None else {}
    reasoning = body.reasoning
    return Response(
        id=response_id,
        created_at=int(time.time()),
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=turn.model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning={"effort": reasoning.effort if reasoning else None, "summary": None},
        store=store,
        temperature=params.temperature,
        text={"format": {"type": "text"}, **text},
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=params.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
        **_raw_messages(body, turn),
    )


def _raw_messages(body: ResponsesRequest, turn: Turn) -> dict[str, Any]:
    """The prompt, and room for what is generated, where the request wants to see them."""
    if not body.enable_response_messages:
        return {}
    prompt = RawMessage(message=turn.prompt.text or "", tokens=turn.prompt.token_ids)
    return {"input_messages": [prompt], "output_messages": [RawMessage(message="", tokens=[])]}


def _stores(context: ServerContext, body: ResponsesRequest) -> bool:
    """Whether the response is stored. Raises ApiError (400): it should be and cannot."""
    enabled = context.responses.enabled
    if body.store and not enabled:
        raise bad_request("store cannot be honoured: this server stores no responses.", "store")
    if body.background and (body.store is False or not enabled):
        raise bad_request(
            "background can only be used when `store` is true and the server stores responses.", "background"
        )
    return enabled and body.store is not False


def _owner(request: Request) -> bytes:
    """Stands for the API key: a response is shown to the key that made it only."""
    return hashlib.sha256(request.headers.get("authorization", "").encode()).digest()


def _conversation(
    context: ServerContext, body: ResponsesRequest, owner: bytes
) -> tuple[list[Item], list[Item]]:
    """The items of the responses before, and the request's own, with what they refer to.

    Raises:
        ApiError: 400, the request has no items, or one twice; 404, there is no such response or item.
    """
    earlier = context.responses.conversation(body.previous_response_id, owner)
    own: list[Item] = []
    there = {item.get("id") for item in earlier}
    for i, item in enumerate(input_items(body)):
        if (reference := referred(item, f"input[{i}]")) is not None:
            if reference in there:
                raise bad_request(f"input[{i}] refers to an item that is there already.", "input")
            there.add(reference)
            item = context.responses.item(reference, owner)
        own.append(item)
    return earlier, _identified(own)


def _identified(items: Sequence[Item]) -> list[Item]:
    """The items with ids, as they are listed later."""
    prefixes = {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
    made = []
    for item in items:
        kind = item.get("type", "message")
        prefix = prefixes.get(kind, "msg") if isinstance(kind, str) else "msg"
        own = item.get("id")
        item_id = own if isinstance(own, str) and own else f"{prefix}_{uuid.uuid4().hex}"
        made.append({"type": "message", **item, "id": item_id})
    return made


async def _kept(
    context: ServerContext, run: ResponseRun, stored: StoredResponse
) -> AsyncGenerator[StreamEvent, None]:
    """The run's events; the response is stored before its last event says that it has ended."""
    async with aclosing(run.events()) as events:
        async for event in events:
            if run.response.usage is not None and run.failure is None:
                context.responses.put(stored)
            yield event


def _stream(
    context: ServerContext, events: AsyncGenerator[StreamEvent, None], headers: dict[str, str]
) -> EventStream:
    def failed(error: ApiError) -> StreamEvent:
        body = error.body["error"]
        fields = {"code": str(body["code"]), "message": body["message"], "param": body["param"]}
        return {"type": "error", "sequence_number": 0, **fields}

    keep_alive_s = context.config.http.sse_keep_alive_interval
    return EventStream(typed_event_stream(events, failed=failed, keep_alive_s=keep_alive_s), headers)
