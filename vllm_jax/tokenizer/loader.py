"""Directory to tokenizer. Knows which file decides; each kind of tokenizer reads its own files."""

from __future__ import annotations

from pathlib import Path

from vllm_jax.errors import CheckpointError
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.files import TokenizerFiles
from vllm_jax.tokenizer.json_tokenizer import JsonTokenizer
from vllm_jax.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Loads the tokenizer in a local directory: ``tokenizer.json``, else a SentencePiece ``tokenizer.model``.

    Code in the directory (``auto_map``) is never run.

    Raises:
        CheckpointError: there is no tokenizer in the directory, or a file is broken; the text names it.
    """
    files = TokenizerFiles.read(Path(directory))
    if (files.directory / "tokenizer.json").is_file():
        return JsonTokenizer.load(files)
    if (files.directory / "tokenizer.model").is_file():
        return SentencePieceTokenizer.load(files)
    code = ""
    if "auto_map" in files.config:
        code = " (its tokenizer is code of its own, auto_map, which is never run)"
    raise CheckpointError(
        f"{directory} has neither tokenizer.json nor tokenizer.model{code}: name another tokenizer with "
        "--tokenizer, or serve token ids only with --skip-tokenizer-init"
    )
