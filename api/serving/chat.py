"""``/v1/chat/completions``: one conversation in, ``n`` answers out, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response

from api.protocol.chat import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
)
from api.serving.answer import AnswerHead, AnswerOptions, check_finish, id_headers, json_response
from api.serving.chat_message import ChatDeltas, whole_message
from api.serving.chat_plan import ChatPlan, plan_chat
from api.serving.context import ServerContext
from api.serving.logprobs import ChatLogprobsFormat, prompt_logprobs
from api.serving.reading import AnswerReader
from api.serving.reasoning_tokens import ReasoningTokens
from api.serving.request_id import choose_request_id
from api.serving.streams import collect, interleave, wait_for_first, while_connected
from api.serving.timing import timing
from api.serving.usage import UsageCounter
from api.sse import EventStream, event_stream
from vllm_jax.outputs import CompletionOutput, RequestOutput
from vllm_jax.tokenizer.messages import content_text


async def create_chat_completion(
    context: ServerContext, body: ChatCompletionRequest, request: Request
) -> Response:
    """Answers a chat request.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field is named.
        EngineDeadError: the engine has failed.
        ClientDisconnect: the client has gone; the request was aborted.
    """
    request_id = f"chatcmpl-{choose_request_id(request, body.request_id)}"
    planning = plan_chat(context, body, request_id, strict=context.config.api.strict_params)
    plan = await while_connected(request.receive, planning)
    streams = await context.start(request, request_id, body, [plan.prompt], plan.params)
    answer = ChatAnswer(context, body, plan, request_id)
    headers = id_headers(request_id, context.config)
    if not body.stream:
        [output] = await while_connected(request.receive, collect(streams))
        return json_response(answer.whole(output), headers)
    keep_alive_s = context.config.http.sse_keep_alive_interval
    deltas = await wait_for_first(request.receive, interleave(streams), keep_alive_s or None)
    return EventStream(event_stream(answer.chunks(deltas), keep_alive_s=keep_alive_s), headers)


class ChatAnswer:
    """Turns the outputs of one request into its answer."""

    def __init__(
        self,
        context: ServerContext,
        body: ChatCompletionRequest,
        plan: ChatPlan,
        request_id: str,
    ):
        params = plan.params
        self._params = params
        self._reading = plan.reading
        streamed = bool(body.stream)
        self._readers = [AnswerReader(plan.reading, streamed=streamed) for _ in range(params.n)]
        self._deltas = [ChatDeltas(plan.reading) for _ in range(params.n)]
        self._unsent = [_Tokens() for _ in range(params.n)]
        self._head = AnswerHead(request_id, plan.model)
        self._prompt_token_ids = plan.prompt.token_ids
        self._options = AnswerOptions.of(body, context.config, has_tokenizer=True)
        self._usage = UsageCounter([len(plan.prompt.token_ids)], details=self._options.prompt_details)
        self._reasoning = [ReasoningTokens.of(plan, context.engine.tokenizer) for _ in range(params.n)]
        self._format_logprobs = ChatLogprobsFormat(
            params,
            as_ids=self._options.tokens_as_ids,
            token_bytes=context.prompts.token_bytes,
        )
        self._role = context.config.api.response_role
        last = body.messages[-1]
        if body.continue_final_message or body.add_generation_prompt is False:
            self._role = last.role
        self._echo = content_text(last.content) if body.echo and last.role == self._role else ""

    def whole(self, output: RequestOutput) -> ChatCompletionResponse:
        """The answer to a request that does not stream."""
        self._count(output)
        scored = output.prompt_logprobs
        return ChatCompletionResponse(
            **self._head.fields,
            choices=[self._choice(o) for o in output.outputs],
            usage=self._usage.usage,
            prompt_logprobs=None
            if scored is None
            else prompt_logprobs(scored, self._params.prompt_logprobs or 0),
            prompt_token_ids=self._prompt_token_ids if self._options.token_ids else None,
            **self._timing(output),
        )

    async def chunks(
        self, deltas: AsyncGenerator[tuple[int, RequestOutput], None]
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        """The events of a stream: roles, contents with the finish reasons, usage."""
        async with aclosing(deltas):
            prompt_ids: dict[str, Any] = {}
            if self._options.token_ids:
                prompt_ids["prompt_token_ids"] = self._prompt_token_ids
            for index in range(self._params.n):
                first = ChatDelta(role=self._role, content="")
                choice = ChatChunkChoice(index=index, delta=first, logprobs=None, finish_reason=None)
                yield self._chunk(choice, **prompt_ids)
                prompt_ids = {}
            if self._echo:
                for index in range(self._params.n):
                    echoed = ChatDelta(content=self._echo)
                    yield self._chunk(
                        ChatChunkChoice(index=index, delta=echoed, logprobs=None, finish_reason=None)
                    )
            took: dict[str, Any] = {}
            async for _, delta in deltas:
                self._count(delta)
                if delta.finished:
                    took = self._timing(delta)
                for output in delta.outputs:
                    check_finish(output)
                    for choice in self._chunk_choices(output):
                        yield self._chunk(choice)
            if self._options.usage:
                yield ChatCompletionChunk(**self._chunk_head, choices=[], usage=self._usage.usage, **took)

    def _timing(self, output: RequestOutput) -> dict[str, Any]:
        if not self._options.timing:
            return {}
        return {"metrics": timing(output.metrics, self._usage.usage.completion_tokens)}

    def _count(self, delta: RequestOutput) -> None:
        self._usage.add(0, delta)
        for output in delta.outputs:
            if (reasoning := self._reasoning[output.index]) is not None:
                self._usage.add_reasoning(reasoning.count(output.token_ids))

    def _choice(self, output: CompletionOutput) -> ChatChoice:
        check_finish(output)
        reader = self._readers[output.index]
        events = reader.read(output.text, finished=True)
        return ChatChoice(
            index=output.index,
            message=whole_message(events, self._role, self._echo, self._reading),
            logprobs=self._logprobs(output),
            finish_reason=reader.finish_reason(output.finish_reason),
            stop_reason=output.stop_reason,
            token_ids=output.token_ids if self._options.token_ids else None,
        )

    def _chunk_choices(self, output: CompletionOutput) -> Iterator[ChatChunkChoice]:
        """What is new, a delta a choice: the first tells of the tokens, the last how the answer ended.

        Tokens whose text is held back (half a character, the start of a mark) wait for the next delta.
        """
        reader, unsent = self._readers[output.index], self._unsent[output.index]
        unsent.add(output.token_ids, self._logprobs(output))
        deltas = self._deltas[output.index].deltas(reader.read(output.text, finished=output.finished))
        if output.finished and not deltas:
            deltas = [ChatDelta(content="") if self._reading.only_content else ChatDelta()]
        for i, delta in enumerate(deltas):
            shown: dict[str, Any] = {"logprobs": None, "finish_reason": None}
            if i == 0:
                token_ids, shown["logprobs"] = unsent.take()
                if self._options.token_ids:
                    shown["token_ids"] = token_ids
            if output.finished and i == len(deltas) - 1:
                shown["finish_reason"] = reader.finish_reason(output.finish_reason)
                shown["stop_reason"] = output.stop_reason
            yield ChatChunkChoice(index=output.index, delta=delta, **shown)

    def _logprobs(self, output: CompletionOutput) -> ChatLogprobs | None:
        if self._params.logprobs is None or output.logprobs is None:
            return None
        return self._format_logprobs(output.logprobs)

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return {"object": "chat.completion.chunk", **self._head.fields}

    def _chunk(self, choice: ChatChunkChoice, **more: Any) -> ChatCompletionChunk:
        if self._options.continuous_usage:
            more["usage"] = self._usage.usage
        return ChatCompletionChunk(**self._chunk_head, choices=[choice], **more)


@dataclass
class _Tokens:
    """What there is to tell of tokens that no delta has been sent for."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[ChatLogprob] | None = None

    def add(self, token_ids: Sequence[int], logprobs: ChatLogprobs | None) -> None:
        """Puts more behind what there is."""
        self.token_ids += token_ids
        if logprobs is not None:
            self.logprobs = (self.logprobs or []) + (logprobs.content or [])

    def take(self) -> tuple[list[int], ChatLogprobs | None]:
        """All of it, once."""
        taken = self.token_ids, None if self.logprobs is None else ChatLogprobs(content=self.logprobs)
        self.token_ids, self.logprobs = [], None
        return taken
