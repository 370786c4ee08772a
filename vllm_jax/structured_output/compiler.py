"""Compiles constraints, within limits, and keeps the last ones.

Knows how much work a grammar may make. Does not know requests; callers run it off the engine's thread.

What bounds the work: the source's size, the engine's own fuel for expressions, automata and parsing (spent
again at each step, so that a sequence's step is bounded too), and no fetching of references. The engine
calls release Python's lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output.grammar import Grammar
from vllm_jax.structured_output.marker import Marker
from vllm_jax.structured_output.source import lark_source
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.structured_output_params import StructuredOutput

_MAX_CACHED = 128
_MAX_MARKERS = 16
_MAX_CACHED_LENGTH = 1 << 21
"""Characters of Lark source that the cache keeps the grammars of."""

_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=250_000,
    verbose_errors=False,
)
_MAX_MESSAGE = 400


class GrammarCompiler:
    """Compiles for one vocabulary. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
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
        """
        with self._lock:
            if output in self._cache:
                self._cache.move_to_end(output)
                return self._cache[output][0]
        source = lark_source(output)
        grammar = self._compile(source, output)
        with self._lock:
            if output not in self._cache:
                self._cache[output] = grammar, len(source)
                self._cached_length += len(source)
            while len(self._cache) > _MAX_CACHED or self._cached_length > _MAX_CACHED_LENGTH:
                _, (_, length) = self._cache.popitem(last=False)
                self._cached_length -= length
        return grammar

    def _compile(self, source: str, output: StructuredOutput) -> Grammar:
        vocabulary = self._vocabulary
        with self._building:
            trie = vocabulary.trie
        matcher = LLMatcher(trie, source, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            padded = np.frombuffer(matcher.compute_bitmask(), np.uint32)
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


def _message(error: str) -> str:
    """The compiler's reason, without its excerpt of our source."""
    lines = [line for line in error.splitlines() if line.strip() and not line.lstrip()[:1].isdigit()]
    text = " ".join(line.strip() for line in (lines or error.splitlines()) if "non-verbose" not in line)
    return text[:_MAX_MESSAGE] or "it is too complex"
