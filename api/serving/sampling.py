"""From a request's fields to :class:`SamplingParams`: request, then server default, then OpenAI's default.

Only knows which field is which; ranges are SamplingParams' own business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from api.errors import bad_request
from api.protocol.chat import ChatCompletionRequest
from api.protocol.completions import CompletionRequest
from api.protocol.generation import GenerationRequest
from api.serving.beam_search import check_beam_search
from api.serving.structured import structured_output
from vllm_jax.engine.info import ModelInfo
from vllm_jax.sampling_params import SamplingParams, most_logprobs

COMPLETION_MAX_TOKENS = 16
"""max_tokens of a text completion that has none."""

_SHARED = frozenset(f.name for f in dataclasses.fields(SamplingParams)) & frozenset(
    GenerationRequest.model_fields
)
"""Fields of the same name and meaning on both sides."""


def chat_params(
    body: ChatCompletionRequest, info: ModelInfo, *, turn_end_ids: Sequence[int] = ()
) -> SamplingParams:
    """Sampling parameters of a chat request; without a limit the answer may fill the context.

    ``turn_end_ids`` end the answer like EOS does.

    Raises:
        ApiError, InvalidRequestError: a value cannot be honoured; the field is named.
    """
    newer = body.max_completion_tokens
    limit = body.max_tokens if newer is None else newer
    _check_limit("max_tokens" if newer is None else "max_completion_tokens", limit, info, least=1)
    top = body.top_logprobs
    if top is not None and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs to be true.", "top_logprobs")
    if top is not None:
        _check_logprobs("top_logprobs", top, info)
    stops = list(body.stop_token_ids or ())
    if not body.ignore_eos:
        stops += turn_end_ids
    logprobs = (top or 0) if body.logprobs else None
    return _params(body, info, max_tokens=limit, logprobs=logprobs, stop_token_ids=stops)


def completion_params(body: CompletionRequest, info: ModelInfo) -> SamplingParams:
    """Sampling parameters of a text completion.

    ``max_tokens=0``, which only echoes the prompt, becomes 1: the answer leaves the token out.

    Raises:
        ApiError, InvalidRequestError: a value cannot be honoured; the field is named.
    """
    limit = body.max_tokens
    if limit == 0 and not body.echo:
        raise bad_request("max_tokens must be at least 1, or 0 together with echo.", "max_tokens")
    if limit == 0 and body.logprob_token_ids:
        raise bad_request("logprob_token_ids needs max_tokens of at least 1.", "logprob_token_ids")
    _check_limit("max_tokens", limit, info, least=0)
    prompt_logprobs = body.prompt_logprobs
    if body.echo and body.logprobs is not None:
        # The echoed prompt is scored too. What each part shows is cut to its own number afterwards.
        wanted = [body.logprobs, *([] if prompt_logprobs is None else [prompt_logprobs])]
        prompt_logprobs = -1 if -1 in wanted else max(wanted)
    params = _params(
        body,
        info,
        max_tokens=1 if limit == 0 else limit,
        default_max_tokens=COMPLETION_MAX_TOKENS,
        logprobs=body.logprobs,
        prompt_logprobs=prompt_logprobs,
    )
    if limit == 0 and params.min_tokens:
        raise bad_request("min_tokens must not be greater than max_tokens (0).", "min_tokens")
    return params


def check_stream_fields(body: GenerationRequest) -> None:
    """What cannot go with or without ``stream``. Raises ApiError (400)."""
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options is only allowed with stream=true.", "stream_options")
    if body.stream and body.prompt_logprobs is not None:
        raise bad_request("prompt_logprobs cannot be streamed.", "prompt_logprobs")


def _params(
    body: GenerationRequest,
    info: ModelInfo,
    *,
    max_tokens: int | None,
    default_max_tokens: int | None = None,
    **chosen: Any,
) -> SamplingParams:
    values: dict[str, Any] = {"max_tokens": default_max_tokens, **info.default_sampling}
    given = {name: value for name in _SHARED if (value := getattr(body, name)) is not None}
    values |= {**given, **chosen, "structured_output": structured_output(body)}
    if max_tokens is not None:
        values["max_tokens"] = max_tokens
    check_beam_search(body)
    if body.use_beam_search:
        values["temperature"] = 1.0  # has no effect there, and 0 would refuse n above 1
    return SamplingParams(**values)


def _check_limit(name: str, value: int | None, info: ModelInfo, *, least: int) -> None:
    if value is not None and value < least:
        raise bad_request(f"{name} must be at least {least}, got {value}.", name)
    if value is not None and value > info.max_model_len:
        raise bad_request(
            f"{name} is {value}, but this model's maximum context length is {info.max_model_len} tokens.",
            name,
        )


def _check_logprobs(name: str, value: int, info: ModelInfo) -> None:
    """The engine checks this as well, but under the name of its own field."""
    most = most_logprobs(info.vocab_size, info.max_logprobs)
    if value > most or (value < 0 and not (value == -1 and most == info.vocab_size)):
        raise bad_request(f"{name} must be between 0 and {most} on this server, got {value}.", name)
