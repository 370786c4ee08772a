"""A small byte-level vocabulary, and its grammars."""

from __future__ import annotations

import pytest
import tiny_models
from grammar_walks import EOS, SIZE

from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.tokenizer.loader import load_tokenizer


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.tokenizer().save_pretrained(directory)
    return Vocabulary(load_tokenizer(directory), SIZE, {EOS})


@pytest.fixture(scope="module")
def compiler(vocabulary: Vocabulary) -> GrammarCompiler:
    return GrammarCompiler(vocabulary)
