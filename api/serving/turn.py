"""One answer to one conversation, as typed events: what /v1/responses and /v1/messages are formatted from.

Knows how a chat request is run and what its deltas mean. Does not know any endpoint's shapes: a formatter
turns :class:`TurnDelta` after :class:`TurnDelta` into its own events, and their sum into its whole answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request

from api.parsers.events import Event
from api.protocol.chat import ChatCompletionRequest, ChatLogprobs
from api.serving.answer import check_finish
from api.serving.chat_plan import ChatPlan, plan_chat
from api.serving.context import ServerContext
from api.serving.logprobs import ChatLogprobsFormat
from api.serving.prompts import Prompt
from api.serving.reading import AnswerReader
from api.serving.reasoning_tokens import ReasoningTokens
from api.serving.streams import Deltas
from api.serving.usage import UsageCounter
from vllm_jax.outputs import CompletionOutput, FinishReason
from vllm_jax.sampling_params import SamplingParams


@dataclass
class TurnDelta:
    """What is new: events in the order of the text, logprobs of its tokens, and how it ended, if it did.

    ``text`` and ``token_ids`` are what the model has generated, as it stands.
    """

    events: list[Event] = field(default_factory=list)
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    text: str = ""
    token_ids: list[int] = field(default_factory=list)


class Turn:
    """A running answer. ``model`` is the served name; ``prompt`` what the model was asked.

    ``streamed``: the client sees it while it is made.
    """

    def __init__(self, context: ServerContext, plan: ChatPlan, stream: Deltas, *, streamed: bool):
        self.model = plan.model
        self.prompt = plan.prompt
        self.params = params = plan.params
        self._stream = stream
        self._reader = AnswerReader(plan.reading, streamed=streamed)
        self._reasoning = ReasoningTokens.of(plan, context.engine.tokenizer)
        self._usage = UsageCounter([len(plan.prompt.token_ids)], details=True)
        self._format_logprobs = ChatLogprobsFormat(
            params,
            as_ids=context.config.api.return_tokens_as_token_ids,
            token_bytes=context.prompts.token_bytes,
        )

    @property
    def usage(self) -> UsageCounter:
        """Tokens so far."""
        return self._usage

    async def deltas(self) -> AsyncGenerator[TurnDelta, None]:
        """The answer as it comes; closing it aborts what has not ended.

        Raises:
            ApiError: 500, the output could not be made.
            EngineDeadError: the engine has failed.
        """
        async with aclosing(self._stream):
            async for delta in self._stream:
                self._usage.add(0, delta)
                for output in delta.outputs:
                    check_finish(output)
                    if self._reasoning is not None:
                        self._usage.add_reasoning(self._reasoning.count(output.token_ids))
                    yield self._delta(output)

    def _delta(self, output: CompletionOutput) -> TurnDelta:
        events = self._reader.read(output.text, finished=output.finished)
        logprobs = None
        if self.params.logprobs is not None and output.logprobs is not None:
            logprobs = self._format_logprobs(output.logprobs)
        return TurnDelta(
            events, logprobs, output.finish_reason, output.stop_reason, output.text, output.token_ids
        )


async def prepare_turn(
    context: ServerContext, body: ChatCompletionRequest, request_id: str
) -> tuple[str, Prompt, SamplingParams]:
    """The served name, the prompt and the sampling parameters of a chat request.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field of ``body`` is named.
    """
    plan = await plan_chat(context, body, request_id, strict=False)
    return plan.model, plan.prompt, plan.params


async def start_turn(
    context: ServerContext,
    body: ChatCompletionRequest,
    request: Request,
    request_id: str,
    *,
    streamed: bool,
) -> Turn:
    """Runs a chat request with ``n`` 1; ``streamed`` as for :class:`Turn`.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field of ``body`` is named.
        EngineDeadError: the engine has failed.
    """
    plan = await plan_chat(context, body, request_id, strict=False)
    [stream] = await context.start(request, request_id, body, [plan.prompt], plan.params)
    return Turn(context, plan, stream, streamed=streamed)
