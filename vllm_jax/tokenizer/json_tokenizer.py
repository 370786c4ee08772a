"""Tokenizers from ``tokenizer.json``.

Knows how transformers reads such a directory (some of its classes rebuild parts of the file, so it is asked
rather than imitated) and how each decoder of the tokenizers library makes text. After loading, only the
library's own tokenizer is kept and never changed again: its settings (truncation, padding) must not be
touched while other threads encode.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_jax.errors import CheckpointError, ConfigError
from vllm_jax.tokenizer.base import (
    ByteDecoding,
    TruncationSide,
    WindowDecoding,
    require_token_ids,
    require_unicode,
)
from vllm_jax.tokenizer.files import TokenizerFiles, one_line, read_json_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_MODEL_TYPES = ("BPE", "Unigram", "WordLevel", "WordPiece")
_PER_TOKEN_STAGES = {"Metaspace", "Replace", "ByteFallback", "Strip", "WordPiece", "BPEDecoder"}


class JsonTokenizer:
    """A ``tokenizer.json`` tokenizer; encodes and decodes as ``AutoTokenizer`` does for its directory."""

    def __init__(
        self,
        backend: Backend,
        files: TokenizerFiles,
        *,
        special_tokens: Mapping[str, str],
        truncation_side: TruncationSide,
        clean_up: Callable[[str], str] | None,
    ):
        """Takes over ``backend``; nobody else may change it from here on.

        Raises:
            ConfigError: the tokenizer's decoder makes text in a way that cannot be streamed.
        """
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._clean_up = clean_up
        added = backend.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._bytes_of: dict[int, bytes] = {}
        self._templates = files.chat_templates

        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.max_token_id = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.special_tokens = special_tokens
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token")
        self.max_length = files.max_length
        self.class_name = files.class_name
        self.truncation_side = truncation_side

        stages = _decoder_stages(backend)
        kinds = [stage["type"] for stage in stages]
        self._byte_fallback = "ByteFallback" in kinds
        self._joins_with_spaces = not kinds or "WordPiece" in kinds
        self.decoding: ByteDecoding | WindowDecoding
        if kinds == ["ByteLevel"] and clean_up is None:
            self.decoding = ByteDecoding()
        else:
            self.decoding = WindowDecoding(
                decode=lambda ids, spaces: self._join(ids, False, spaces),
                is_byte=self._is_byte,
                replacement_is_open="ByteLevel" in kinds,
                clean_up=clean_up,
            )
        self._byte_of = _byte_level_alphabet() if kinds == ["ByteLevel"] else None
        self._neighbour = self._find_neighbour()

    @classmethod
    def load(cls, files: TokenizerFiles) -> JsonTokenizer:
        """Loads the tokenizer of a directory that has a ``tokenizer.json``.

        Raises:
            CheckpointError: a file is broken or does not fit the others.
        """
        loaded = _load_with_transformers(files.directory)
        backend: Backend = loaded.backend_tokenizer
        clean_up: Callable[[str], str] | None = None
        # The clean-up was made for WordPiece; transformers keeps it away from BPE unless told otherwise.
        even_for_bpe = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
        if loaded.clean_up_tokenization_spaces and (
            type(backend.model).__name__ != "BPE" or getattr(loaded, even_for_bpe, False)
        ):
            clean_up = clean_up_spaces
        return cls(
            backend,
            files,
            special_tokens={role: str(token) for role, token in loaded.special_tokens_map.items()},
            truncation_side=loaded.truncation_side,
            clean_up=clean_up,
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.encode`."""
        require_unicode(text)
        # The "fast" batch call leaves out character offsets and takes half the time of ``encode``.
        return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.decode`."""
        require_token_ids(ids)
        text = self._join(ids, skip_special_tokens, spaces_between_special_tokens)
        return text if self._clean_up is None else self._clean_up(text)

    def token_bytes(self, token_id: int) -> bytes:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.token_bytes`."""
        data = self._bytes_of.get(token_id)
        if data is None:
            data = self._bytes_of[token_id] = self._make_token_bytes(token_id)
        return data

    def token_str(self, token_id: int) -> str:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.token_str`."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def id_to_piece(self, token_id: int) -> str | None:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.id_to_piece`."""
        return self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def token_to_id(self, piece: str) -> int | None:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.token_to_id`."""
        return self._backend.token_to_id(piece)

    def get_chat_template(self, name: str = "default") -> str | None:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.get_chat_template`."""
        return self._templates.get(name)

    def _id_of(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self._backend.token_to_id(token)

    def _join(self, ids: Sequence[int], skip_special_tokens: bool, spaces: bool) -> str:
        """Returns the decoder's text; without ``spaces``, added tokens stand between separate texts."""
        if spaces or not self._joins_with_spaces:
            return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        parts: list[str] = []
        run: list[int] = []
        for token_id in ids:
            if skip_special_tokens and token_id in self.special_token_ids:
                continue
            if token_id in self._added:
                parts += [self._backend.decode(run), self._added[token_id]]
                run = []
            else:
                run.append(token_id)
        parts.append(self._backend.decode(run))
        return "".join(parts)

    def _is_byte(self, token_id: int) -> bool:
        if not self._byte_fallback:
            return False
        piece = self.id_to_piece(token_id)
        return piece is not None and _BYTE_PIECE.fullmatch(piece) is not None

    def _make_token_bytes(self, token_id: int) -> bytes:
        piece = self.id_to_piece(token_id)
        if piece is None:
            return b""
        if self._byte_of is not None:
            try:
                return bytes(self._byte_of[character] for character in piece)
            except KeyError:  # an added token with characters outside the alphabet stands for itself
                return piece.encode()
        if self._is_byte(token_id):
            return bytes([int(piece[3:5], 16)])
        before = self._join(self._neighbour, False, True)
        after = self._join([*self._neighbour, token_id], False, True)
        return after.removeprefix(before).encode()

    def _find_neighbour(self) -> list[int]:
        """Returns one ordinary token that shows text: others, behind it, look as they do inside a text."""
        if self._byte_of is not None:
            return []
        for token_id in range(self.max_token_id + 1):
            ordinary = token_id not in self._added and not self._is_byte(token_id)
            if ordinary and self._backend.decode([token_id]):
                return [token_id]
        return []


def clean_up_spaces(text: str) -> str:
    """Takes away the spaces before English punctuation and contractions, as transformers does after decoding.

    Every replacement deletes a space only, and every pattern begins with one: see
    :mod:`vllm_jax.tokenizer.detokenizer` for what a stream makes of that.
    """
    for pattern in (" .", " ?", " !", " ,"):
        text = text.replace(pattern, pattern[1:])
    text = text.replace(" ' ", "'")
    for pattern in (" n't", " 'm", " 's", " 've", " 're"):
        text = text.replace(pattern, pattern[1:])
    return text


def _load_with_transformers(directory: Path) -> Any:
    """Returns transformers' tokenizer object for ``directory``."""
    with _quiet_transformers():
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        errors = []
        # The second way reads tokenizer.json as it stands. It serves where the class that the configs name
        # is code of the repository, which is never run, or is not made for tokenizer.json.
        for way in (AutoTokenizer, PreTrainedTokenizerFast):
            try:
                loaded = way.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
                if hasattr(loaded, "backend_tokenizer"):
                    return loaded
            except Exception as error:  # the libraries raise whatever comes up, bare Exception included
                errors.append(error)
    reason = _what_is_wrong(directory / "tokenizer.json")
    if reason is None:
        reason = one_line(errors[-1]) if errors else "transformers gives no fast tokenizer for it"
        if errors and isinstance(errors[-1], KeyError):
            reason = f"a file lacks {reason}"
    raise CheckpointError(f"cannot load the tokenizer in {directory}: {reason}")


def _what_is_wrong(path: Path) -> str | None:
    """Returns why ``path`` is no tokenizer, or None where it is one.

    transformers looks into the file before the tokenizers library does, and stumbles without a reason.
    """
    from tokenizers import Tokenizer as Backend

    model = read_json_object(path).get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind is not None and kind not in _MODEL_TYPES:
        return f"{path.name} has a model of type {str(kind)[:40]!r}; known are {', '.join(_MODEL_TYPES)}"
    try:
        Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        return f"{path.name} is no valid tokenizer: {one_line(error)}"
    return None


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps transformers' advice (no torch here, class names differ, ...) out of the start-up output."""
    top = logging.getLogger("transformers")

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    top.addFilter(drop)
    try:
        from transformers.utils import logging as library_logging

        level = library_logging.get_verbosity()
        library_logging.set_verbosity_error()
        try:
            yield
        finally:
            library_logging.set_verbosity(level)
    finally:
        top.removeFilter(drop)


def _decoder_stages(backend: Backend) -> list[dict[str, Any]]:
    """Returns the decoder's stages in order.

    Raises:
        ConfigError: text that has been emitted could change with later tokens; the text names the stage.
    """
    if backend.decoder is None:
        return []
    stages = list(_flatten(json.loads(backend.decoder.__getstate__())))
    fused = False
    for stage in stages:
        kind = stage["type"]
        keeps_prefixes = kind == "Strip" and stage["stop"] == 0 if fused else kind in _PER_TOKEN_STAGES
        if kind in ("Fuse", "ByteLevel") and not fused:
            fused = True  # from here on, a stage sees the whole text
        elif not keeps_prefixes:
            where = " after Fuse" if fused else ""
            raise ConfigError(f"the tokenizer's decoder {kind}{where} cannot be streamed: not supported")
    return stages


def _flatten(stage: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if stage["type"] == "Sequence":
        for inner in stage["decoders"]:
            yield from _flatten(inner)
    else:
        yield stage


def _byte_level_alphabet() -> dict[str, int]:
    """Returns the byte that each character of a byte-level vocabulary stands for, as GPT-2 chose them."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
