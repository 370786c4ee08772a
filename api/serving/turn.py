"""One answer to one conversation, as typed events: what /v1/responses and /v1/messages are formatted from.

Knows how a chat request is run and what its deltas mean. Does not know any endpoint's shapes: a formatter
turns :class:`TurnDelta` after :class:`TurnDelta` into its own events, and their sum into its whole answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request

from api.parsers.events import Content, Event
from api.protocol.chat import ChatCompletionRequest, ChatLogprobs
from api.protocol.unsupported import check_fields
from api.serving.answer import check_finish
from api.serving.context import ServerContext
from api.serving.logprobs import ChatLogprobsFormat
from api.serving.prompts import Prompt
from api.serving.sampling import chat_params
from api.serving.streams import Deltas
from api.serving.usage import UsageCounter
from vllm_jax.outputs import CompletionOutput, FinishReason
from vllm_jax.sampling_params import SamplingParams


@dataclass
class TurnDelta:
    """What is new: events in the order of the text, logprobs of its tokens, and how it ended, if it did."""

    events: list[Event] = field(default_factory=list)
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


class Turn:
    """A running answer. ``model`` is the served name; ``prompt`` what the model was asked."""

    def __init__(
        self, context: ServerContext, model: str, prompt: Prompt, params: SamplingParams, stream: Deltas
    ):
        self.model = model
        self.prompt = prompt
        self.params = params
        self._stream = stream
        self._usage = UsageCounter([len(prompt.token_ids)], details=True)
        self._format_logprobs = ChatLogprobsFormat(
            params.logprobs or 0,
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
                    yield self._delta(output)

    def _delta(self, output: CompletionOutput) -> TurnDelta:
        events: list[Event] = [Content(output.text)] if output.text else []
        logprobs = None
        if self.params.logprobs is not None and output.logprobs is not None:
            logprobs = self._format_logprobs(output.logprobs)
        return TurnDelta(events, logprobs, output.finish_reason, output.stop_reason)


async def prepare_turn(
    context: ServerContext, body: ChatCompletionRequest, request_id: str
) -> tuple[str, Prompt, SamplingParams]:
    """The served name, the prompt and the sampling parameters of a chat request.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field of ``body`` is named.
    """
    check_fields(body, request_id, strict=False)
    model = context.models.resolve(body.model)
    params = chat_params(body, context.engine.info, turn_end_ids=context.prompts.turn_end_ids)
    return model, await context.prompts.chat(body), params


async def start_turn(
    context: ServerContext, body: ChatCompletionRequest, request: Request, request_id: str
) -> Turn:
    """Runs a chat request with ``n`` 1.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field of ``body`` is named.
        EngineDeadError: the engine has failed.
    """
    model, prompt, params = await prepare_turn(context, body, request_id)
    [stream] = await context.start(request, request_id, body, [prompt], params)
    return Turn(context, model, prompt, params, stream)
