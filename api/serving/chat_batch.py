"""``/v1/chat/completions/batch``: many conversations in, one answer to each out, in one body."""

from __future__ import annotations

from fastapi import Request, Response

from api.errors import bad_request
from api.protocol.base import Usage
from api.protocol.chat import ChatCompletionResponse
from api.protocol.chat_batch import ChatBatchRequest
from api.protocol.unsupported import check_fields
from api.serving.answer import id_headers, json_response
from api.serving.chat import ChatAnswer
from api.serving.chat_plan import ChatPlan, plan_chat
from api.serving.context import ServerContext
from api.serving.request_id import choose_request_id
from api.serving.streams import Deltas, collect, while_connected

_ABSENT = ("stream", "tools", "functions", "use_beam_search", "prompt_logprobs")
"""Fields of chats that a batch has not, as with vLLM."""


async def create_chat_batch(context: ServerContext, body: ChatBatchRequest, request: Request) -> Response:
    """Answers every conversation of a request; choice ``i`` is that to conversation ``i``.

    Raises:
        ApiError, InvalidRequestError: it cannot be honoured; then no conversation has been answered.
        EngineDeadError: the engine has failed.
        ClientDisconnect: the client has gone; all were aborted.
    """
    request_id = f"chatcmpl-{choose_request_id(request, body.request_id)}"
    check_fields(body, request_id, strict=context.config.api.strict_params)
    for name in _ABSENT:
        if getattr(body, name):
            raise bad_request(f"{name} cannot be honoured in a batch; /v1/chat/completions takes it.", name)
    if body.n is not None and body.n != 1:
        raise bad_request(f"n must be 1 in a batch, got {body.n}.", "n")
    conversations = [body.conversation(i) for i in range(len(body.messages))]

    async def plan() -> list[ChatPlan]:
        return [await plan_chat(context, one, request_id, strict=False) for one in conversations]

    plans = await while_connected(request.receive, plan())
    streams: list[Deltas] = []
    try:
        for one, planned in zip(conversations, plans, strict=True):
            streams += await context.start(request, request_id, one, [planned.prompt], planned.params)
    except BaseException:
        for stream in streams:
            await stream.aclose()
        raise
    outputs = await while_connected(request.receive, collect(streams))
    answers = [
        ChatAnswer(context, one, planned, request_id).whole(output)
        for one, planned, output in zip(conversations, plans, outputs, strict=True)
    ]
    return json_response(_together(answers), id_headers(request_id, context.config))


def _together(answers: list[ChatCompletionResponse]) -> ChatCompletionResponse:
    choices = []
    for i, answer in enumerate(answers):
        [choice] = answer.choices
        choices.append(choice.model_copy(update={"index": i}))
    prompt = sum(answer.usage.prompt_tokens for answer in answers)
    completion = sum(answer.usage.completion_tokens for answer in answers)
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    alone = {"prompt_token_ids": None, "metrics": None}
    return answers[0].model_copy(update={"choices": choices, "usage": usage, **alone})
