"""``/v1/completions``: one or several prompts in, ``n`` continuations of each out, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import Request, Response

from api.errors import bad_request
from api.protocol.completions import (
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
)
from api.protocol.unsupported import check_fields
from api.serving.answer import AnswerHead, AnswerOptions, check_finish, id_headers, json_response
from api.serving.context import ServerContext
from api.serving.logprobs import CompletionLogprobsFormat, prompt_logprobs
from api.serving.prompts import Prompt
from api.serving.request_id import choose_request_id
from api.serving.sampling import check_stream_fields, completion_params
from api.serving.streams import collect, interleave, wait_for_first, while_connected
from api.serving.text_offsets import TextOffsets, prompt_offsets
from api.serving.timing import timing
from api.serving.usage import UsageCounter
from api.sse import EventStream, event_stream
from vllm_jax.errors import InvalidRequestError
from vllm_jax.outputs import CompletionOutput, PositionLogprobs, RequestOutput
from vllm_jax.sampling_params import SamplingParams

MAX_SEQUENCES = 4096
"""Prompts times ``n`` at most."""


async def create_completion(context: ServerContext, body: CompletionRequest, request: Request) -> Response:
    """Answers a text completion request.

    Raises:
        ApiError, InvalidRequestError: the request cannot be honoured; the field is named.
        EngineDeadError: the engine has failed.
        ClientDisconnect: the client has gone; the request was aborted.
    """
    request_id = f"cmpl-{choose_request_id(request, body.request_id)}"
    check_fields(body, request_id, strict=context.config.api.strict_params)
    model = context.models.resolve(body.model)
    check_stream_fields(body)
    params = completion_params(body, context.engine.info)
    if body.echo and body.logprobs is not None and context.engine.tokenizer is None:
        raise bad_request(
            "echo with logprobs needs a tokenizer, and this server runs with --skip-tokenizer-init.", "echo"
        )
    prompts = await while_connected(request.receive, context.prompts.completion(body))
    if len(prompts) * params.n > MAX_SEQUENCES:
        raise bad_request(
            f"{len(prompts)} prompts with n={params.n} are more than {MAX_SEQUENCES} sequences.", "n"
        )
    drawn = _drawn(body, params)
    if len(prompts) * drawn.n > MAX_SEQUENCES:
        raise bad_request(
            f"{len(prompts)} prompts with best_of={drawn.n} are more than {MAX_SEQUENCES} sequences.",
            "best_of",
        )
    streams = await context.start(request, request_id, body, prompts, drawn)
    answer = _CompletionAnswer(context, body, params, AnswerHead(request_id, model), prompts)
    headers = id_headers(request_id, context.config)
    if not body.stream:
        outputs = await while_connected(request.receive, collect(streams))
        return json_response(answer.whole(outputs), headers)
    keep_alive_s = context.config.http.sse_keep_alive_interval
    deltas = await wait_for_first(request.receive, interleave(streams), keep_alive_s or None)
    return EventStream(event_stream(answer.chunks(deltas), keep_alive_s=keep_alive_s), headers)


def _drawn(body: CompletionRequest, params: SamplingParams) -> SamplingParams:
    """The parameters of the sequences that are generated, of which ``params.n`` are returned."""
    if body.best_of is None or body.best_of == params.n:
        return params
    if body.best_of < params.n:
        raise bad_request(f"best_of must be at least n ({params.n}), got {body.best_of}.", "best_of")
    for field in ("stream", "use_beam_search"):
        if getattr(body, field):
            raise bad_request(f"best_of above n does not go with {field}.", "best_of")
    try:
        return replace(params, n=body.best_of, logprobs=params.logprobs or 0)
    except InvalidRequestError as error:
        raise bad_request(str(error).replace("n must", "best_of must", 1), "best_of") from None


def _best(outputs: Sequence[CompletionOutput], n: int) -> list[CompletionOutput]:
    """The ``n`` with the highest logprob a token, best first; all as they are where there are no more."""
    if len(outputs) <= n:
        return list(outputs)

    def score(output: CompletionOutput) -> float:
        total = output.cumulative_logprob
        return float("-inf") if total is None else total / max(1, len(output.token_ids))

    ranked = sorted(outputs, key=score, reverse=True)[:n]
    return [replace(output, index=i) for i, output in enumerate(ranked)]


class _CompletionAnswer:
    """Turns the outputs of one request into its answer."""

    def __init__(
        self,
        context: ServerContext,
        body: CompletionRequest,
        params: SamplingParams,
        head: AnswerHead,
        prompts: Sequence[Prompt],
    ):
        self._context = context
        self._params = params
        self._head = head
        self._prompts = prompts
        self._echo = bool(body.echo)
        self._echo_only = body.max_tokens == 0
        self._prompt_logprobs = body.prompt_logprobs
        self._options = AnswerOptions.of(
            body, context.config, has_tokenizer=context.engine.tokenizer is not None
        )
        self._usage = UsageCounter(
            [len(p.token_ids) for p in prompts],
            details=self._options.prompt_details,
            count_output=not self._echo_only,
        )
        self._prompt_scores: dict[int, Sequence[PositionLogprobs | None]] = {}
        self._format_logprobs = CompletionLogprobsFormat(params.logprobs or 0, self._options.tokens_as_ids)
        self._prompt_offsets: dict[int, list[int]] = {}
        self._offsets: dict[int, TextOffsets] = {}
        self._lengths: dict[int, int] = {}

    def whole(self, outputs: Sequence[RequestOutput]) -> CompletionResponse:
        """The answer to a request that does not stream."""
        choices = []
        for i, output in enumerate(outputs):
            self._usage.add(i, output)
            choices += [self._choice(i, output, o) for o in _best(output.outputs, self._params.n)]
        took = self._timing(outputs[0])
        return CompletionResponse(**self._head.fields, choices=choices, usage=self._usage.usage, **took)

    async def chunks(
        self, deltas: AsyncGenerator[tuple[int, RequestOutput], None]
    ) -> AsyncGenerator[CompletionChunk, None]:
        """The events of a stream: texts with the finish reasons, usage."""
        usage: dict[str, Any] = {}
        took: dict[str, Any] = {}
        async with aclosing(deltas):
            async for i, delta in deltas:
                self._usage.add(i, delta)
                if delta.finished:
                    took = self._timing(delta)
                for output in delta.outputs:
                    choice = self._choice(i, delta, output)
                    if not self._says_something(choice):
                        continue
                    if self._options.continuous_usage:
                        usage["usage"] = self._usage.usage
                    yield CompletionChunk(**self._chunk_head, choices=[choice], **usage)
            if self._options.usage:
                yield CompletionChunk(**self._chunk_head, choices=[], usage=self._usage.usage, **took)

    def _timing(self, output: RequestOutput) -> dict[str, Any]:
        if not self._options.timing or len(self._prompts) > 1:
            return {}
        return {"metrics": timing(output.metrics, self._usage.usage.completion_tokens)}

    def _choice(self, i: int, delta: RequestOutput, output: CompletionOutput) -> CompletionChoice:
        """The choice of sequence ``output`` of prompt ``i``; its first piece opens with the echoed prompt."""
        check_finish(output)
        if delta.prompt_logprobs is not None:
            self._prompt_scores[i] = delta.prompt_logprobs
        index = i * self._params.n + output.index
        opening = index not in self._lengths
        new = CompletionOutput(index, finish_reason="length") if self._echo_only else output
        shown: dict[str, Any] = {}
        if self._options.token_ids:
            shown["token_ids"] = new.token_ids
            if opening:
                shown["prompt_token_ids"] = self._prompts[i].token_ids
        scores = self._prompt_scores.get(i)
        if self._prompt_logprobs is not None and scores is not None:
            shown["prompt_logprobs"] = prompt_logprobs(scores, self._prompt_logprobs)
        echoed = opening and self._echo
        text = (self._prompts[i].text or "") + new.text if echoed else new.text
        self._lengths[index] = self._lengths.get(index, 0) + len(text)
        return CompletionChoice(
            index=index,
            text=text,
            logprobs=self._logprobs(i, index, new, with_prompt=echoed),
            finish_reason=new.finish_reason,
            stop_reason=new.stop_reason,
            **shown,
        )

    def _logprobs(
        self, i: int, index: int, output: CompletionOutput, *, with_prompt: bool
    ) -> CompletionLogprobs | None:
        if self._params.logprobs is None:
            return None
        tokenizer, prompt = self._context.engine.tokenizer, self._prompts[i]
        if index not in self._offsets:
            start = len(prompt.text or "") if self._echo else 0
            self._offsets[index] = TextOffsets(tokenizer, prompt.token_ids, self._params, start)
        cut = isinstance(output.stop_reason, str)
        offsets = self._offsets[index].push(output.token_ids, self._lengths[index] if cut else None)
        scores = self._prompt_scores.get(i)
        if not with_prompt or scores is None or tokenizer is None:  # an aborted request may have no scores
            return self._format_logprobs(output.logprobs or [], output.token_ids, offsets)
        if i not in self._prompt_offsets:
            self._prompt_offsets[i] = prompt_offsets(tokenizer, prompt.token_ids, prompt.text or "")
        return self._format_logprobs(
            [*scores, *(output.logprobs or [])],
            [*prompt.token_ids, *output.token_ids],
            [*self._prompt_offsets[i], *offsets],
            first_text=self._context.prompts.token_text(prompt.token_ids[0]),
        )

    def _says_something(self, choice: CompletionChoice) -> bool:
        # A token whose text is held back (half a character, the start of a stop string) is no event.
        return bool(choice.text or choice.finish_reason or choice.logprobs or self._options.token_ids)

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return {"object": "text_completion", **self._head.fields}
