"""Command lines of the smaller commands: a dataclass's fields are the flags, in groups.

A command that starts an engine takes every flag of ``vllm-jax serve`` beside its own: :func:`split`
tells them apart by name. Knows tyro; does not know what a command does.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from api.commands.fields import is_list
from api.commands.flags import ServeArguments, parse_serve, run_tyro
from api.commands.usage import UsageError
from vllm_jax.errors import ConfigError

T = TypeVar("T")


@runtime_checkable
class _Validated(Protocol):
    def validate(self) -> None: ...


def parse(
    command: type[T], argv: Sequence[str], *, prog: str, description: str, aliases: Mapping[str, str] = {}
) -> T:
    """Types ``argv`` as ``command``, a dataclass of flags or of groups of flags.

    ``aliases`` are other spellings, "-q" -> "--quick".

    Raises:
        UsageError: a flag is unknown or its value is wrong, or ``command.validate()`` says so.
        SystemExit: with 0, after ``--help``.
    """
    words = [spelled(word, aliases) for word in argv]
    try:
        typed = run_tyro(command, words, prog=prog, description=description)
        if isinstance(typed, _Validated):
            typed.validate()
    except ConfigError as error:
        raise UsageError(str(error)) from None
    return typed


def split(
    command: type[T], argv: Sequence[str], *, prog: str, description: str, aliases: Mapping[str, str] = {}
) -> tuple[T, list[str]]:
    """Types the flags of ``command`` and leaves all other words, in their order, for somebody else.

    Raises:
        UsageError, SystemExit: as :func:`parse`.
    """
    kinds = _flags(command)
    own: list[str] = []
    rest: list[str] = []
    words = [spelled(word, aliases) for word in argv]
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            own = [word]
            break
        name, equals, _ = word.partition("=")
        kind = kinds.get(name.removeprefix("--")) or kinds.get(name.removeprefix("--no-"))
        if not name.startswith("--") or kind is None:
            rest.append(word)
            continue
        own.append(word)
        if kind is bool or equals:
            continue
        if is_list(kind):
            while words and not words[0].startswith("-"):
                own.append(words.pop(0))
        elif words:
            own.append(words.pop(0))
    return parse(command, own, prog=prog, description=description), rest


def parse_with_serve(
    command: type[T], argv: Sequence[str], *, prog: str, description: str, aliases: Mapping[str, str] = {}
) -> tuple[T, ServeArguments]:
    """The flags of ``command``, and all others read as by ``vllm-jax serve``.

    Raises:
        UsageError, SystemExit: as :func:`parse`.
    """
    own, rest = split(command, argv, prog=prog, description=description, aliases=aliases)
    try:
        return own, parse_serve(rest)
    except ConfigError as error:
        raise UsageError(str(error)) from None


def spelled(word: str, aliases: Mapping[str, str]) -> str:
    """``word`` with dashes in its flag, by its first name."""
    name, equals, value = word.partition("=")
    if name.startswith("--"):
        name = name.replace("_", "-")
    return aliases.get(name, name) + equals + value


def _flags(command: Any) -> dict[str, Any]:
    """Flag without dashes in front -> type, of all groups."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(command).items():
        if dataclasses.is_dataclass(kind):
            found |= _flags(kind)
        else:
            found[name.replace("_", "-")] = kind
    return found
