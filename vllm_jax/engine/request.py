"""A request on its way into the engine: what is asked, whether it can be served, and its sequences."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial

from vllm_jax.engine.info import ModelInfo
from vllm_jax.errors import InvalidRequestError
from vllm_jax.sampling.mask import TokenConstraints, prepare_constraints
from vllm_jax.sampling.seeds import sequence_seed
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.sequence import Sequence
from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.grammar import Grammar
from vllm_jax.tokenizer.base import Tokenizer, WindowDecoding

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


def _validate(request: Request, info: ModelInfo) -> None:
    ids = request.prompt_token_ids
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
    room = info.max_model_len - len(ids)
    if request.params.min_tokens > room:
        raise InvalidRequestError(
            f"min_tokens is {request.params.min_tokens}, but behind your prompt of {len(ids)} tokens there "
            f"is room for {room} in the context of {info.max_model_len}.",
            "min_tokens",
        )
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


@dataclass(frozen=True)
class PreparedRequest:
    """A request that has been checked, and its ``n`` sequences."""

    request: Request
    sequences: list[Sequence]


@dataclass(frozen=True)
class PreparedParams:
    """Sampling parameters that have been held to the model; requests of one client may share them.

    ``others`` are those of a request's sequences beside the first: only the first scores the prompt, the
    answer would be the same for all. ``constraints`` is what the sampler's token mask is made of, and
    ``grammar`` what the output must look like.
    """

    params: SamplingParams
    others: SamplingParams
    constraints: TokenConstraints | None
    grammar: Grammar | None


def prepare_params(
    params: SamplingParams, info: ModelInfo, tokenizer: Tokenizer | None, grammars: GrammarCompiler | None
) -> PreparedParams:
    """Checks sampling parameters against the model.

    Takes long where there are many long ``bad_words`` or a structured output to compile.

    Raises:
        InvalidRequestError: they cannot be honoured; the text names the field.
    """
    params.validate_for_model(info.vocab_size, info.max_logprobs)
    if params.embed and info.pooling is None:
        raise InvalidRequestError(
            f"The model {info.model} generates text and gives no embeddings. A model with a pooling of the "
            "last token does; --runner pooling makes one of any model.",
            "model",
        )
    if tokenizer is None and params.stop:
        raise InvalidRequestError(
            "stop needs a tokenizer, and the engine was started with --skip-tokenizer-init.", "stop"
        )
    constraints = prepare_constraints(
        params,
        vocab_size=info.vocab_size,
        eos_token_ids=info.eos_token_ids,
        encode=None if tokenizer is None else partial(tokenizer.encode, add_special_tokens=False),
    )
    grammar = _grammar(params, tokenizer, grammars)
    others = params
    if params.n > 1 and params.prompt_logprobs is not None:
        others = replace(params, prompt_logprobs=None)
    return PreparedParams(params, others, constraints, grammar)


def _grammar(
    params: SamplingParams, tokenizer: Tokenizer | None, grammars: GrammarCompiler | None
) -> Grammar | None:
    output = params.structured_output
    if output is None:
        return None
    if tokenizer is None or grammars is None:
        raise InvalidRequestError(
            f"{output.param} needs a tokenizer, and the engine was started with --skip-tokenizer-init.",
            output.param,
        )
    if isinstance(tokenizer.decoding, WindowDecoding) and tokenizer.decoding.clean_up is not None:
        raise InvalidRequestError(
            f"{output.param} cannot be honoured: this model's tokenizer takes spaces out of the text after "
            "it was generated, so that its form cannot be promised.",
            output.param,
        )
    return grammars.compile(output)


def prepare_request(
    request: Request, prepared: PreparedParams, info: ModelInfo, unseeded: int
) -> PreparedRequest:
    """Checks a request and makes its sequences; ``unseeded`` is its seed where it brings none.

    Raises:
        InvalidRequestError: it can never be served as it is; the text names the field.
    """
    _validate(request, info)
    params = prepared.params
    seed = unseeded if params.seed is None else params.seed
    eos_token_ids = frozenset() if params.ignore_eos else info.eos_token_ids
    grammar, stops = prepared.grammar, frozenset(params.stop_token_ids)
    sequences = [
        Sequence(
            seq_id=f"{request.request_id}/{index}",
            request_id=request.request_id,
            index=index,
            prompt_token_ids=request.prompt_token_ids,
            params=params if index == 0 else prepared.others,
            seed=sequence_seed(seed, index),
            eos_token_ids=eos_token_ids,
            token_constraints=prepared.constraints,
            grammar=None if grammar is None else grammar.start(eos_token_ids, stops),
            priority=request.priority,
            cache_salt=request.cache_salt,
            arrival_time=request.arrival_time,
        )
        for index in range(params.n)
    ]
    return PreparedRequest(request, sequences)
