"""Compiles constraints, within limits, and keeps the last ones.

Knows how much work a grammar may make. Does not know requests; callers run it off the engine's thread.

What bounds the work: the source's size, the engine's own fuel for expressions, automata and parsing (spent
again at each step, so that a sequence's step is bounded too), and no fetching of references. Some schemas
spend no fuel and never end, or recurse until the stack is full: each is compiled in another process first
(see :mod:`.trials`). The engine calls release Python's lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output.grammar import Grammar
from vllm_jax.structured_output.marker import Marker
from vllm_jax.structured_output.source import lark_source
from vllm_jax.structured_output.trials import TrialFailedError, Trials
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.structured_output_params import StructuredOutput

T = TypeVar("T")

_MAX_CACHED = 128
_MAX_MARKERS = 16
_MAX_CACHED_LENGTH = 1 << 21
"""Characters of Lark source that the cache keeps the grammars of."""

MAX_SECONDS = 10.0
"""Processor time to compile a grammar."""

_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 5_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 250_000,
    "verbose_errors": False,
}
_STACK_BYTES = 8 << 20
_STACK_SIZE_LOCK = threading.Lock()
_MAX_MESSAGE = 400
_SELF_REFERENCE = "NoExtensionBias"


class GrammarCompiler:
    """Compiles for one vocabulary, each grammar in at most ``max_seconds`` of processor time. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary, max_seconds: float = MAX_SECONDS):
        self._vocabulary = vocabulary
        self._trials = Trials(max_seconds, _LIMITS, vocabulary.size, vocabulary.special_texts)
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._cache: OrderedDict[StructuredOutput, tuple[Grammar, int]] = OrderedDict()
        self._cached_length = 0
        self._markers: dict[str, Marker] = {}

    def compile(self, output: StructuredOutput) -> Grammar:
        """The grammar of a constraint. May take seconds.

        Raises:
            InvalidRequestError: it cannot be compiled, or only beyond the limits, or it admits no text;
                ``param`` is ``output.param``.
            OverloadedError: it takes long, and too many others do.
        """
        if (known := self.known(output)) is not None:
            return known
        source = lark_source(output, self._vocabulary.special_ids)
        grammar = self._compile(source, output)
        with self._lock:
            if output not in self._cache:
                self._cache[output] = grammar, len(source)
                self._cached_length += len(source)
            while len(self._cache) > _MAX_CACHED or self._cached_length > _MAX_CACHED_LENGTH:
                _, (_, length) = self._cache.popitem(last=False)
                self._cached_length -= length
        return grammar

    def known(self, output: StructuredOutput) -> Grammar | None:
        """The grammar, if it has been compiled and kept."""
        with self._lock:
            if output not in self._cache:
                return None
            self._cache.move_to_end(output)
            return self._cache[output][0]

    def _compile(self, source: str, output: StructuredOutput) -> Grammar:
        try:
            self._trials.run(source)
        except TrialFailedError:
            raise InvalidRequestError(
                f"{output.param}: the {output.kind} cannot be honoured: to compile it takes more than "
                f"{self._trials.seconds:g} s, or too much memory or nesting",
                output.param,
            ) from None
        vocabulary = self._vocabulary
        with self._building:
            trie = vocabulary.trie
        matcher, padded = _with_stack(partial(_match, trie, source))
        if matcher.is_error():
            raise InvalidRequestError(
                f"{output.param}: the {output.kind} cannot be honoured: {_message(matcher.get_error())}",
                output.param,
            )
        mask, may_end = vocabulary.split_end(padded)
        if not mask.any():
            raise InvalidRequestError(
                f"{output.param}: the {output.kind} admits no text"
                + (" but the empty one" if may_end else " that this model's tokens can spell"),
                output.param,
            )
        marker = None if output.after is None else self._marker(output.after)
        return Grammar(vocabulary, matcher, mask, may_end, marker)

    def _marker(self, text: str) -> Marker:
        """The marker, which is mostly the same one: looking through the vocabulary takes a while."""
        with self._lock:
            marker = self._markers.get(text)
        if marker is None:
            marker = Marker(text, self._vocabulary)
            with self._lock:
                if len(self._markers) >= _MAX_MARKERS:
                    self._markers.clear()
                self._markers[text] = marker
        return marker


def _match(trie: LLTokenizer, source: str) -> tuple[LLMatcher, np.ndarray]:
    """The matcher at its beginning, and its mask, which means nothing where there is an error."""
    matcher = LLMatcher(trie, source, log_level=0, limits=LLParserLimits(**_LIMITS))
    mask = b"" if matcher.is_error() else matcher.compute_bitmask()
    return matcher, np.frombuffer(mask, np.uint32)


def _with_stack(work: Callable[[], T]) -> T:
    """The result of ``work`` in a thread whose stack holds what the trial's has held."""
    with ThreadPoolExecutor(1, "grammar") as pool:
        with _STACK_SIZE_LOCK:
            before = threading.stack_size(_STACK_BYTES)
            result = pool.submit(work)
            threading.stack_size(before)
        return result.result()


def _message(error: str) -> str:
    """The compiler's reason, without its excerpt of our source."""
    if _SELF_REFERENCE in error:
        return (
            'it only refers back to itself (a reference such as "#", or a rule), so that no text has its form'
        )
    lines = [line for line in error.splitlines() if line.strip() and not line.lstrip()[:1].isdigit()]
    text = " ".join(line.strip() for line in (lines or error.splitlines()) if "non-verbose" not in line)
    return text[:_MAX_MESSAGE] or "it is too complex"
