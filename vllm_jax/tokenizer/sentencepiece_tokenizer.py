"""Tokenizers from a SentencePiece ``tokenizer.model``, for directories without ``tokenizer.json``.

Knows the sentencepiece package (which does all of the segmentation), the added and special tokens that the
files beside the model put on top, and how the "legacy" flag places the space that SentencePiece writes at the
beginning of a text. Needs no protobuf: settings of a model are changed by appending a field to its bytes,
since a protobuf parser merges what it meets twice.

Text is not "cleaned up" here, whatever ``clean_up_tokenization_spaces`` says: SentencePiece keeps every
space, and taking some away would make the text differ from what was encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sentencepiece import SentencePieceProcessor

from vllm_jax.errors import CheckpointError, ConfigError
from vllm_jax.tokenizer.base import (
    ByteDecoding,
    TruncationSide,
    WindowDecoding,
    require_token_ids,
    require_unicode,
)
from vllm_jax.tokenizer.files import TokenizerFiles, one_line
from vllm_jax.tokenizer.utf8 import decode_utf8

_SPACE = "\u2581"
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
# ModelProto.normalizer_spec (field 3) with add_dummy_prefix (field 3 of NormalizerSpec) set to false or true.
_DUMMY_PREFIX = {False: b"\x1a\x02\x18\x00", True: b"\x1a\x02\x18\x01"}


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in the text before SentencePiece sees it.

    ``lstrip`` and ``rstrip`` let it swallow the white space before and behind it; ``single_word`` finds it
    only where no letter or digit touches it.
    """

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class SentencePieceTokenizer:
    """A SentencePiece model with the added tokens of its directory."""

    def __init__(self, model: bytes, files: TokenizerFiles):
        """Makes a tokenizer of a serialized ``ModelProto``.

        Raises:
            CheckpointError: the model or a file beside it is broken.
            ConfigError: the model writes its spaces behind the words, which is not supported.
        """
        self._files = files
        config = files.config
        own = _processor(model, files)
        with_prefix = own.Normalize("a").startswith(_SPACE)
        if own.Normalize("a b").endswith(_SPACE):
            raise ConfigError(f"{files.directory}: treat_whitespace_as_suffix is not supported")
        drops_spaces = _SPACE * 2 not in own.Normalize("a  b")
        stated = config.get("add_prefix_space")
        self._adds_prefix = with_prefix if stated is None else bool(stated)
        self._prefix_everywhere = bool(config.get("legacy", False))
        self._processors = {on: _processor(model + _DUMMY_PREFIX[on], files) for on in (False, True)}
        self._model = own
        self._num_pieces = own.GetPieceSize()

        self._bytes_of: dict[int, bytes] = {}
        self._added, roles = self._read_added_tokens()
        self._ids = {token.content: token_id for token_id, token in self._added.items()}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

        control = (i for i in range(self._num_pieces) if own.IsControl(i) or own.IsUnknown(i))
        added_special = (token_id for token_id, token in self._added.items() if token.special)
        self.special_token_ids = frozenset(control) | frozenset(added_special)
        self.special_tokens: Mapping[str, str] = roles
        self.bos_token_id = self._id_of("bos_token")
        self.eos_token_id = self._id_of("eos_token")
        self.pad_token_id = self._id_of("pad_token")
        self.max_token_id = max([self._num_pieces - 1, *self._added])
        self.vocab_size = self._num_pieces + sum(token_id >= self._num_pieces for token_id in self._added)
        self.max_length = files.max_length
        self.class_name = files.class_name
        self.truncation_side: TruncationSide = "left" if config.get("truncation_side") == "left" else "right"
        self._bytes_decoding = ByteDecoding(
            each_invalid_byte=True,
            leading_spaces="drop_all" if drops_spaces else "drop_one" if self._adds_prefix else "keep",
        )
        self.decoding: ByteDecoding | WindowDecoding = self._bytes_decoding
        self._before = self._wrap("add_bos_token", self.bos_token_id)
        self._behind = self._wrap("add_eos_token", self.eos_token_id)

    @classmethod
    def load(cls, files: TokenizerFiles) -> SentencePieceTokenizer:
        """Loads the tokenizer of a directory that has a ``tokenizer.model``; errors as in the constructor."""
        path = files.directory / "tokenizer.model"
        try:
            model = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {one_line(error)}") from error
        return cls(model, files)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.encode`."""
        require_unicode(text)
        ids = list(self._before) if add_special_tokens else []
        for part, at_start in self._split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                prefix = self._adds_prefix and (at_start or self._prefix_everywhere)
                ids.extend(self._processors[prefix].Encode(part))
        if add_special_tokens:
            ids.extend(self._behind)
        return ids

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.decode`. No spaces are put between special tokens."""
        require_token_ids(ids)
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        data = b"".join(self.token_bytes(token_id) for token_id in ids if token_id not in skipped)
        if self._bytes_decoding.leading_spaces == "drop_all":
            data = data.lstrip(b" ")
        elif self._bytes_decoding.leading_spaces == "drop_one":
            data = data.removeprefix(b" ")
        return decode_utf8(data, each_invalid_byte=True)

    def token_bytes(self, token_id: int) -> bytes:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.token_bytes`."""
        data = self._bytes_of.get(token_id)
        if data is None:
            data = self._bytes_of[token_id] = self._make_token_bytes(token_id)
        return data

    def token_str(self, token_id: int) -> str:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.token_str`."""
        return decode_utf8(self.token_bytes(token_id), each_invalid_byte=True)

    def id_to_piece(self, token_id: int) -> str | None:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.id_to_piece`."""
        added = self._added.get(token_id)
        if added is not None:
            return added.content
        return self._model.IdToPiece(token_id) if 0 <= token_id < self._num_pieces else None

    def token_to_id(self, piece: str) -> int | None:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.token_to_id`."""
        return self._ids.get(piece, self._own_id(piece))

    def get_chat_template(self, name: str = "default") -> str | None:
        """See :meth:`vllm_jax.tokenizer.base.Tokenizer.get_chat_template`."""
        return self._files.chat_templates.get(name)

    def _make_token_bytes(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            return added.content.encode()
        if not 0 <= token_id < self._num_pieces:
            return b""
        piece = self._model.IdToPiece(token_id)
        if self._model.IsByte(token_id):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_SPACE, " ").encode()

    def _own_id(self, piece: str) -> int | None:
        """Returns the id of a piece of the model itself, or None."""
        token_id = self._model.PieceToId(piece)
        return token_id if self._model.IdToPiece(token_id) == piece else None

    def _id_of(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.token_to_id(token)

    def _wrap(self, flag: str, token_id: int | None) -> list[int]:
        """Returns the token that ``flag`` of the config asks for around a text. Unstated means no."""
        return [token_id] if self._files.config.get(flag) and token_id is not None else []

    def _split(self, text: str) -> Iterator[tuple[int | str, bool]]:
        """Yields the added tokens (ids) and the texts between them, and whether each begins ``text``."""
        done = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._added[self._ids[match.group()]]
            start, end = match.span()
            if start < done or (token.single_word and _touches_word(text, start, end)):
                continue
            if token.lstrip:
                start = done + len(text[done:start].rstrip())
            if start > done:
                yield text[done:start], done == 0
            yield self._ids[token.content], start == 0
            done = end
            if token.rstrip:
                done = len(text) - len(text[end:].lstrip())
        if done < len(text):
            yield text[done:], done == 0

    def _read_added_tokens(self) -> tuple[dict[int, AddedToken], dict[str, str]]:
        """Returns the added tokens by id, and the special tokens by role.

        ``added_tokens_decoder`` in tokenizer_config.json holds everything where it is there; older
        directories spread it over added_tokens.json and special_tokens_map.json. A special token that
        no file gives an id and the model does not know comes behind all others.
        """
        config = self._files.config
        added: dict[int, AddedToken] = {}
        named = {key: config[key] for key in (*_ROLES, *_MORE_SPECIAL) if key in config}
        try:
            if "added_tokens_decoder" in config:
                for token_id, token in config["added_tokens_decoder"].items():
                    added[int(token_id)] = _added_token(token)
            else:
                named |= self._files.special_tokens_map
                for content, token_id in self._files.added_tokens.items():
                    added[int(token_id)] = AddedToken(content)
            own = {"bos_token": self._model.bos_id(), "eos_token": self._model.eos_id()}
            for role, token_id in {**own, "unk_token": self._model.unk_id()}.items():
                if role not in named and token_id >= 0:
                    named[role] = self._model.IdToPiece(token_id)
            roles = {role: _added_token(named[role]) for role in _ROLES if named.get(role)}
            more = [token for key in _MORE_SPECIAL for token in _values(named.get(key)) if token]
            extra = [_added_token(token) for token in more]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the added or special tokens in {self._files.directory} are not in a known format: "
                f"{one_line(error)}"
            ) from error
        added = {token_id: token for token_id, token in added.items() if token.content}
        by_content = {token.content: token_id for token_id, token in added.items()}
        for token in (*roles.values(), *extra):
            token_id = by_content.get(token.content, self._own_id(token.content))
            if token_id is None:
                token_id = max([self._num_pieces - 1, *added]) + 1
            added[token_id] = replace(added.get(token_id, token), content=token.content, special=True)
            by_content[token.content] = token_id
        return added, {role: token.content for role, token in roles.items()}


def _processor(model: bytes, files: TokenizerFiles) -> SentencePieceProcessor:
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        processor.GetPieceSize()
    except RuntimeError as error:
        raise CheckpointError(
            f"{files.directory / 'tokenizer.model'} is no SentencePiece model: {one_line(error)}"
        ) from error
    return processor


def _added_token(token: Any) -> AddedToken:
    """Reads a token in either spelling, a text or an object."""
    if isinstance(token, str):
        return AddedToken(token)
    flags = {flag: bool(token.get(flag, False)) for flag in ("special", "lstrip", "rstrip", "single_word")}
    if not isinstance(token["content"], str):
        raise TypeError(f"content {token['content']!r}")
    return AddedToken(token["content"], **flags)


def _values(tokens: Any) -> list[Any]:
    """Returns the tokens of a list, or of an object that names them."""
    return list(tokens.values() if isinstance(tokens, dict) else tokens or ())


def _touches_word(text: str, start: int, end: int) -> bool:
    """Whether a letter, digit or underscore stands right before or behind ``text[start:end]``."""
    around = text[max(0, start - 1) : start] + text[end : end + 1]
    return re.search(r"\w", around) is not None
