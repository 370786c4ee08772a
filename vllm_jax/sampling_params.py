"""Every sampling field of a request, validated once. Knows no HTTP, no model and no JAX.

A :class:`SamplingParams` that exists is valid in itself: ranges, types and combinations are checked when it
is made, and the values are stored normalised (lists for ``stop``, ints for logit-bias keys, 0 for "off").
What depends on the model, such as whether a token id is in the vocabulary, is checked by
:meth:`SamplingParams.validate_for_model`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from numbers import Integral, Real
from typing import Any

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output_params import StructuredOutput as StructuredOutput
from vllm_jax.structured_output_params import StructuredOutputsParams as StructuredOutputsParams

MAX_N = 128
"""Most sequences one prompt may ask for."""
MAX_STOP_STRINGS = 4
MAX_STRING_LENGTH = 1024
"""Most characters of one stop string or bad word."""
MAX_BAD_WORDS = 128
MAX_LOGIT_BIAS = 1024
"""Most entries of ``logit_bias``; also the width of the device array that holds them."""
LOGIT_BIAS_LIMIT = 100.0
MAX_LOGPROB_TOKEN_IDS = 128
"""Most entries of ``logprob_token_ids``; also the width of the device array that holds them."""
GREEDY_TEMPERATURE = 1e-5
"""Temperatures below this mean greedy decoding."""

_INT32_MAX = 2**31 - 1
_FLOAT32_TINY, _FLOAT32_MAX = 2.0**-126, 3.4028234e38
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def most_logprobs(vocab_size: int, max_logprobs: int) -> int:
    """Candidates that a position can have at most, where ``--max-logprobs`` is ``max_logprobs`` (-1: all)."""
    return vocab_size if max_logprobs == -1 else min(max_logprobs, vocab_size)


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """How a request's tokens are chosen and when they stop. Defaults are OpenAI's and vLLM's.

    Attributes:
        n: Sequences to generate, 1..128.
        temperature: 0..2; below 1e-5 decoding is greedy, and ``top_p``, ``top_k`` and ``min_p`` are off.
        top_p: (0, 1]; keep the smallest set of most likely tokens with at least this mass.
        top_k: Keep the k most likely tokens; 0 (or -1) is off.
        min_p: [0, 1]; keep the tokens at least this fraction as likely as the most likely one.
        presence_penalty: [-2, 2]; subtracted once from the logit of each token in the output.
        frequency_penalty: [-2, 2]; subtracted for every occurrence of the token in the output.
        repetition_penalty: > 0; logits of tokens in prompt or output are divided (positive) or multiplied
            (negative) by it.
        seed: int64, or None for fresh randomness. See :mod:`vllm_jax.sampling.seeds`.
        max_tokens: Most output tokens; None means as many as the context allows.
        min_tokens: EOS and ``stop_token_ids`` cannot be sampled before this many output tokens.
        stop: Up to four strings that end the output; a single string is accepted and stored as a list.
        stop_token_ids: Token ids that end the output.
        include_stop_str_in_output: Keep the stop string in the text.
        ignore_eos: Do not stop at EOS.
        logprobs: Top candidates to report at each output position; -1 is the whole vocabulary.
        prompt_logprobs: The same for prompt positions.
        logprob_token_ids: Ids whose logprobs are reported at each output position, beside the sampled
            token's and instead of the top candidates'; needs ``logprobs``.
        logit_bias: Token id -> value added to its logit, clamped to [-100, 100].
        allowed_token_ids: Only these ids can be sampled.
        bad_words: Strings whose token sequences cannot be completed.
        structured_output: What the output must look like, or None where it is free.
        structured_outputs: The same in vLLM's spelling; it is stored as ``structured_output``.
        skip_special_tokens: Leave special tokens out of the text.
        spaces_between_special_tokens: Put spaces between special tokens in the text.
        shown_special_token_ids: Special tokens that stay in the text although the others are left out.
        detokenize: Produce text at all.
        embed: Give the prompt's embedding; the one token that is sampled means nothing.

    Raises:
        InvalidRequestError: a value is of the wrong type or out of range; ``param`` names the field.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = field(default_factory=list)
    structured_output: StructuredOutput | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    shown_special_token_ids: list[int] = field(default_factory=list)
    detokenize: bool = True
    embed: bool = False
    structured_outputs: InitVar[StructuredOutputsParams | None] = None

    def __post_init__(self, structured_outputs: StructuredOutputsParams | None) -> None:
        if structured_outputs is not None:
            self._take(structured_outputs)
        self._check_numbers()
        self._check_lengths()
        self._check_logprobs()
        self._check_token_controls()
        for name in (
            "include_stop_str_in_output",
            "ignore_eos",
            "skip_special_tokens",
            "spaces_between_special_tokens",
            "detokenize",
            "embed",
        ):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequestError(f"{name} must be a boolean, got {_show(getattr(self, name))}", name)
        if self.stop and not self.detokenize:
            raise InvalidRequestError("stop strings need detokenize=True", "stop")

    @classmethod
    def for_embedding(cls) -> SamplingParams:
        """Of a request for its prompt's embedding."""
        return cls(max_tokens=1, temperature=0.0, detokenize=False, embed=True)

    def _take(self, structured_outputs: StructuredOutputsParams) -> None:
        if not isinstance(structured_outputs, StructuredOutputsParams):
            raise InvalidRequestError(
                f"structured_outputs must be a StructuredOutputsParams, got {_show(structured_outputs)}",
                "structured_outputs",
            )
        if self.structured_output is not None:
            raise InvalidRequestError(
                "give structured_output or structured_outputs, not both", "structured_outputs"
            )
        self.structured_output = structured_outputs.output

    def _check_numbers(self) -> None:
        self.n = _integer("n", self.n, 1, MAX_N)
        self.temperature = _number("temperature", self.temperature, 0.0, 2.0)
        self.top_p = _number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidRequestError("top_p must be greater than 0 and at most 1, got 0", "top_p")
        self.top_k = max(0, _integer("top_k", self.top_k, -1, _INT32_MAX))
        self.min_p = _number("min_p", self.min_p, 0.0, 1.0)
        self.presence_penalty = _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        self.frequency_penalty = _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        self.repetition_penalty = _number("repetition_penalty", self.repetition_penalty, 0.0, _FLOAT32_MAX)
        if self.repetition_penalty < _FLOAT32_TINY:  # would be a division by zero on the device
            raise InvalidRequestError(
                f"repetition_penalty must be greater than 0, got {self.repetition_penalty:g}",
                "repetition_penalty",
            )
        self.seed = _seed(self.seed)
        if self.temperature < GREEDY_TEMPERATURE:
            if self.n > 1:
                raise InvalidRequestError(
                    f"n must be 1 with greedy sampling (temperature 0), got {self.n}: all would be equal",
                    "n",
                )
            self.temperature, self.top_p, self.top_k, self.min_p = 0.0, 1.0, 0, 0.0

    def _check_lengths(self) -> None:
        if self.max_tokens is not None:
            self.max_tokens = _integer("max_tokens", self.max_tokens, 1, _INT64_MAX)
        self.min_tokens = _integer("min_tokens", self.min_tokens, 0, _INT64_MAX)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens ({self.min_tokens}) must not be greater than max_tokens ({self.max_tokens})",
                "min_tokens",
            )
        stop: Any = self.stop
        self.stop = _strings("stop", [stop] if isinstance(stop, str) else stop, MAX_STOP_STRINGS)
        self.stop_token_ids = _token_ids("stop_token_ids", self.stop_token_ids)
        self.shown_special_token_ids = _token_ids("shown_special_token_ids", self.shown_special_token_ids)

    def _check_logprobs(self) -> None:
        if self.logprobs is not None:
            self.logprobs = _integer("logprobs", self.logprobs, -1, _INT32_MAX)
        if self.prompt_logprobs is not None:
            self.prompt_logprobs = _integer("prompt_logprobs", self.prompt_logprobs, -1, _INT32_MAX)
        if self.logprob_token_ids is not None:
            self.logprob_token_ids = _token_ids("logprob_token_ids", self.logprob_token_ids)
            if len(self.logprob_token_ids) > MAX_LOGPROB_TOKEN_IDS:
                raise InvalidRequestError(
                    f"logprob_token_ids must have at most {MAX_LOGPROB_TOKEN_IDS} entries, "
                    f"got {len(self.logprob_token_ids)}",
                    "logprob_token_ids",
                )
            if self.logprobs is None:
                raise InvalidRequestError("logprob_token_ids needs logprobs to be set", "logprob_token_ids")

    def _check_token_controls(self) -> None:
        self.logit_bias = _logit_bias(self.logit_bias)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _token_ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise InvalidRequestError("allowed_token_ids must not be empty", "allowed_token_ids")
        self.bad_words = _strings("bad_words", self.bad_words, MAX_BAD_WORDS)
        if self.structured_output is None:
            return
        if not isinstance(self.structured_output, StructuredOutput):
            raise InvalidRequestError(
                f"structured_output must be a StructuredOutput, got {_show(self.structured_output)}",
                "structured_output",
            )
        if self.allowed_token_ids is not None:
            raise InvalidRequestError(
                "allowed_token_ids cannot be combined with structured output: together they may leave no "
                "token to go on with",
                "allowed_token_ids",
            )

    def validate_for_model(self, vocab_size: int, max_logprobs: int) -> None:
        """Checks what depends on the model and the server.

        Args:
            vocab_size: Number of columns of the model's logits; valid ids are ``0 .. vocab_size - 1``.
            max_logprobs: Most logprobs a position may report; -1 allows the whole vocabulary.

        Raises:
            InvalidRequestError: an id is outside the vocabulary, or logprobs are too many.
        """
        limit = most_logprobs(vocab_size, max_logprobs)
        for name, asked in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if asked is None:
                continue
            if asked == -1 and limit < vocab_size:
                raise InvalidRequestError(
                    f"{name}=-1 (the whole vocabulary) is not allowed; this server gives at most {limit}",
                    name,
                )
            if asked > limit:
                raise InvalidRequestError(f"{name} must be at most {limit} on this server, got {asked}", name)
        for name, ids in (
            ("stop_token_ids", self.stop_token_ids),
            ("logprob_token_ids", self.logprob_token_ids),
            ("logit_bias", self.logit_bias),
            ("allowed_token_ids", self.allowed_token_ids),
        ):
            if ids and max(ids) >= vocab_size:
                outside = [token for token in ids if token >= vocab_size]
                raise InvalidRequestError(
                    f"{name} has out-of-vocabulary token ids {_show(outside)}. Vocabulary size: {vocab_size}",
                    name,
                )

    @property
    def greedy(self) -> bool:
        """Whether each token is simply the most likely one."""
        return self.temperature == 0.0

    @property
    def uses_penalties(self) -> bool:
        """Whether logits depend on the tokens so far."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0

    @property
    def constrains_tokens(self) -> bool:
        """Whether some ids can be forbidden at some position (the token mask is needed)."""
        return self.allowed_token_ids is not None or bool(self.bad_words) or self.min_tokens > 0

    @property
    def needs_host_tokens(self) -> bool:
        """Whether the host must have read the last token before it can prepare the next step."""
        return bool(self.bad_words) or self.structured_output is not None

    @property
    def needs_full_sampler(self) -> bool:
        """Whether the request needs logits processors or logprobs, beyond greedy or plain random sampling."""
        return (
            self.logprobs is not None
            or self.uses_penalties
            or self.constrains_tokens
            or bool(self.logit_bias)
        )


def _show(value: object) -> str:
    """A short text for an error message: bounded, whatever the client sent."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge integer"
    try:
        text = repr(value)
    except ValueError:  # a huge integer somewhere inside
        return f"a {type(value).__name__}"
    return text if len(text) <= 100 else text[:97] + "..."


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidRequestError(f"{name} must be an integer, got {_show(value)}", name)
    number = int(value)
    if not low <= number <= high:
        raise InvalidRequestError(f"{name} must be between {low} and {high}, got {_show(number)}", name)
    return number


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequestError(f"{name} must be a number, got {_show(value)}", name)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequestError(f"{name} must be finite, got {_show(value)}", name)
    if not low <= number <= high:
        raise InvalidRequestError(f"{name} must be between {low:g} and {high:g}, got {_show(value)}", name)
    return number


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidRequestError(f"seed must be an integer, got {_show(value)}", "seed")
    # Clients match on the names of the violated constraints.
    seed = int(value)
    if seed < _INT64_MIN:
        raise InvalidRequestError(f"seed is too small (greater_than_equal {_INT64_MIN})", "seed")
    if seed > _INT64_MAX:
        raise InvalidRequestError(f"seed is too large (less_than_equal {_INT64_MAX})", "seed")
    return seed


def _elements(name: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InvalidRequestError(f"{name} must be a list, got {_show(value)}", name)
    return list(value)


def _strings(name: str, value: Any, limit: int) -> list[str]:
    strings = _elements(name, value)
    if len(strings) > limit:
        raise InvalidRequestError(f"{name} must have at most {limit} entries, got {len(strings)}", name)
    for string in strings:
        if not isinstance(string, str):
            raise InvalidRequestError(f"{name} must contain strings, got {_show(string)}", name)
        if not string:
            raise InvalidRequestError(f"{name} must not contain an empty string", name)
        if len(string) > MAX_STRING_LENGTH:
            raise InvalidRequestError(
                f"{name} must contain strings of at most {MAX_STRING_LENGTH} characters, got {len(string)}",
                name,
            )
    return strings


def _token_ids(name: str, value: Any) -> list[int]:
    """Distinct ids in the order given."""
    ids: dict[int, None] = {}
    for element in _elements(name, value):
        token = _token_id(element)
        if token is None:
            text = f"{name} must contain token ids between 0 and {_INT32_MAX}, got {_show(element)}"
            raise InvalidRequestError(text, name)
        ids[token] = None
    return list(ids)


def _token_id(value: Any) -> int | None:
    """``value`` as an int where it is a possible token id, else None."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value) if 0 <= int(value) <= _INT32_MAX else None


def _logit_bias(value: Any) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError(
            f"logit_bias must map token ids to numbers, got {_show(value)}", "logit_bias"
        )
    if len(value) > MAX_LOGIT_BIAS:
        raise InvalidRequestError(
            f"logit_bias must have at most {MAX_LOGIT_BIAS} entries, got {len(value)}", "logit_bias"
        )
    keys = {key: _bias_key(key) for key in value}
    if wrong := [key for key, token in keys.items() if token is None]:
        raise InvalidRequestError(f"logit_bias keys must be token ids, got {_show(wrong)}", "logit_bias")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        token = keys[key]
        assert token is not None
        if token in biases:
            raise InvalidRequestError(f"logit_bias names token {token} twice", "logit_bias")
        number = _number("logit_bias", bias, -math.inf, math.inf)
        biases[token] = max(-LOGIT_BIAS_LIMIT, min(LOGIT_BIAS_LIMIT, number))
    return biases


def _bias_key(key: Any) -> int | None:
    """The token id of a key, which JSON makes a string; None where it is not one."""
    if isinstance(key, str):
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            return None
        key = int(key)
    return _token_id(key)
