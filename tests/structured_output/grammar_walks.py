"""Sequences that take tokens from their masks, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.grammar import GrammarState, MaskMaker
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.structured_output_params import StructuredOutput

EOS = 1
SIZE = 400
"""More than the tokenizer has: a padded embedding."""


def start(compiler: GrammarCompiler, stops: frozenset[int] = frozenset(), **fields: Any) -> GrammarState:
    return compiler.compile(StructuredOutput(**fields)).start(frozenset({EOS}), stops)


def allowed(state: GrammarState) -> list[int]:
    return np.flatnonzero(np.unpackbits(state.mask.view(np.uint8), bitorder="little")).tolist()


def consume(state: GrammarState, token: int) -> None:
    assert token in allowed(state)
    if state.consume(token):
        MaskMaker(1).make([state])


def walk(state: GrammarState, vocabulary: Vocabulary, rng: np.random.Generator, steps: int) -> bytes:
    """Takes random allowed tokens until the end; the bytes of the text."""
    text = b""
    for _ in range(steps):
        token = int(rng.choice(allowed(state)))
        if token == EOS:
            return text
        consume(state, token)
        assert state.error is None
        text += vocabulary.tokens[token]
        if state.finished:
            return text
    pytest.fail(f"no end after {steps} tokens: {text!r}")
