"""A text made under a grammar is the text that the stream shows, with every kind of tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.grammar import MaskMaker
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.structured_output_params import StructuredOutput
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.detokenizer import IncrementalDetokenizer

REGEX = r"The (quick|lazy) fo[xX]!( (I|love|programming|[a-e ]{2})){1,4}"


@pytest.mark.parametrize("kind", ["byte_level", "gpt_neox", "byte_fallback", "sp_bpe", "sp_unigram"])
def test_the_text_is_what_the_grammar_saw(tokenizer_of: Callable[[str], Tokenizer], kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert tokenizer.eos_token_id is not None
    vocabulary = Vocabulary(tokenizer, tokenizer.max_token_id + 1, {tokenizer.eos_token_id})
    grammar = GrammarCompiler(vocabulary).compile(StructuredOutput(regex=REGEX))
    prompt = tokenizer.encode("I love")
    rng = np.random.default_rng(0)
    for _ in range(10):
        state = grammar.start(frozenset({tokenizer.eos_token_id}), frozenset())
        stream, text = IncrementalDetokenizer(tokenizer, prompt), ""
        while not state.finished:
            ids = np.flatnonzero(np.unpackbits(state.mask.view(np.uint8), bitorder="little"))
            token = int(rng.choice(ids))
            if token == tokenizer.eos_token_id:
                break
            if state.consume(token):
                MaskMaker(1).make([state])
            assert state.error is None
            text += stream.push(token)
        assert re.fullmatch(REGEX, text + stream.flush())
