"""A request on its way into the engine: what is asked, whether it can be served, and its sequences."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial

from vllm_jax.engine.info import ModelInfo
from vllm_jax.errors import InvalidRequestError
from vllm_jax.sampling.mask import prepare_constraints
from vllm_jax.sampling.seeds import sequence_seed
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.sequence import Sequence
from vllm_jax.tokenizer.base import Tokenizer

_SALT_LENGTH = 128
_SALT_FORBIDDEN = "@/\\\0"


@dataclass(frozen=True)
class Request:
    """A prompt and how to continue it.

    ``prompt`` is the text the ids came from, if there was one; it is only handed through. ``arrival_time``
    is in seconds of ``time.monotonic()``.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    prompt: str | None = None
    priority: int = 0
    cache_salt: str | None = None
    arrival_time: float = field(default_factory=time.monotonic)


def _validate(request: Request, info: ModelInfo, tokenizer: Tokenizer | None) -> None:
    ids, params = request.prompt_token_ids, request.params
    if not ids:
        raise InvalidRequestError("The prompt is empty: it must have at least one token.", "prompt")
    if min(ids) < 0 or max(ids) >= info.vocab_size:
        bad = next(i for i in ids if not 0 <= i < info.vocab_size)
        raise InvalidRequestError(
            f"Token id {bad} is out of vocabulary: ids must be in [0, {info.vocab_size}).", "prompt"
        )
    if len(ids) >= info.max_model_len:
        raise InvalidRequestError(
            f"This model's maximum context length is {info.max_model_len} tokens. However, your prompt "
            f"contains {len(ids)} tokens, which leaves no room for output. Please shorten the prompt.",
            "input_tokens",
        )
    params.validate_for_model(info.vocab_size, info.max_logprobs)
    if request.priority and info.scheduling_policy != "priority":
        raise InvalidRequestError(
            "priority is only honoured when the server runs with --scheduling-policy priority.", "priority"
        )
    salt = request.cache_salt
    if salt is not None and (
        not 1 <= len(salt) <= _SALT_LENGTH or any(char in salt for char in _SALT_FORBIDDEN)
    ):
        raise InvalidRequestError(
            f"cache_salt must have 1 to {_SALT_LENGTH} characters, none of them '@', '/', '\\' or NUL.",
            "cache_salt",
        )
    if tokenizer is None and params.stop:
        raise InvalidRequestError(
            "stop needs a tokenizer, and the engine was started with --skip-tokenizer-init.", "stop"
        )


@dataclass(frozen=True)
class PreparedRequest:
    """A request that has been checked, and its ``n`` sequences."""

    request: Request
    sequences: list[Sequence]


def prepare_request(
    request: Request, info: ModelInfo, tokenizer: Tokenizer | None, unseeded: int
) -> PreparedRequest:
    """Checks a request and makes its sequences; ``unseeded`` is its seed where it brings none.

    Only the first sequence scores the prompt: the answer would be the same for all.

    Raises:
        InvalidRequestError: it can never be served as it is; the text names the field.
    """
    _validate(request, info, tokenizer)
    params = request.params
    seed = unseeded if params.seed is None else params.seed
    constraints = prepare_constraints(
        params,
        vocab_size=info.vocab_size,
        eos_token_ids=info.eos_token_ids,
        encode=None if tokenizer is None else partial(tokenizer.encode, add_special_tokens=False),
    )
    sequences = [
        Sequence(
            seq_id=f"{request.request_id}/{index}",
            request_id=request.request_id,
            index=index,
            prompt_token_ids=request.prompt_token_ids,
            params=params if index == 0 else replace(params, prompt_logprobs=None),
            seed=sequence_seed(seed, index),
            eos_token_ids=frozenset() if params.ignore_eos else info.eos_token_ids,
            token_constraints=constraints,
            priority=request.priority,
            cache_salt=request.cache_salt,
            arrival_time=request.arrival_time,
        )
        for index in range(params.n)
    ]
    return PreparedRequest(request, sequences)
