"""Tokenizers of every kind, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import small_tokenizers as small

from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.loader import load_tokenizer


@pytest.fixture(scope="session")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the directory of a kind of tokenizer, by the name of the function that makes it."""
    made: dict[str, Path] = {}

    def directory(kind: str) -> Path:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            if kind == "sp_bpe":
                small.sentencepiece_directory(path, small.train_sentencepiece(**small.LLAMA))
            elif kind == "sp_unigram":
                small.sentencepiece_directory(path, small.train_sentencepiece(model_type="unigram"))
            else:
                getattr(small, kind)(path)
            made[kind] = path
        return made[kind]

    return directory


@pytest.fixture(scope="session")
def tokenizer_of(directory_of: Callable[[str], Path]) -> Callable[[str], Tokenizer]:
    """Returns the loaded tokenizer of a kind."""
    loaded: dict[str, Tokenizer] = {}

    def tokenizer(kind: str) -> Tokenizer:
        if kind not in loaded:
            loaded[kind] = load_tokenizer(directory_of(kind))
        return loaded[kind]

    return tokenizer
