"""The command line of ``vllm-jax serve``: from argv to :class:`EngineConfig` and :class:`ServerConfig`.

Flags, types, defaults and help come from the config dataclasses through tyro; nothing is written twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tyro

from api.commands.compatibility import FOREIGN_FLAGS
from api.commands.fields import is_json
from api.commands.spelling import Settings, yaml_arguments
from api.server_config import ServerConfig
from vllm_jax.config import FLOAT16_NOTE, REMOTE_CODE_NOTE, EngineConfig
from vllm_jax.errors import ConfigError

PROG = "vllm-jax serve [MODEL]"
# One paragraph a line, since tyro joins the lines of a paragraph and does not wrap them.
DESCRIPTION = """Serve MODEL to OpenAI clients: a directory, a hub id, or (without it) the demo.

Dashes and underscores are the same in flags; switches have a --no- form.

Flags that take a JSON object also take --flag.key VALUE.

A file may hold flags, --config FILE.yaml; the command line wins over it.

One group of flags: --help=GROUP (--help=http, say), or --help=FLAG.

Flags of vLLM without a meaning here are accepted, and say so at the start."""

T = TypeVar("T")
_SIZES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class ServeArguments:
    """A parsed command line. ``notes`` are remarks for stderr: flags without effect."""

    engine: EngineConfig
    server: ServerConfig
    notes: list[str] = field(default_factory=list)


def parse_serve(argv: Sequence[str]) -> ServeArguments:
    """Parses the arguments after ``serve``.

    ``--help``, ``--help=GROUP`` and ``--help=FLAG`` print the help of all flags, or of one group, and raise
    SystemExit(0).

    Raises:
        ConfigError: a flag is unknown, lacks its value, or has a wrong one; one line that names it.
    """
    for word in argv:
        if word in ("-h", "--help") or word.startswith("--help="):
            _run_serve(["--help"], _groups_for_help(word.partition("=")[2]))
    settings = Settings()
    settings.read(argv)
    if settings.config_file is not None:
        below = Settings()
        below.read(yaml_arguments(settings.config_file))
        settings.lay_over(below)
    settings.check_model()
    groups = _run_serve(settings.canonical())
    engine = EngineConfig(**{f.name: getattr(groups, f.name) for f in dataclasses.fields(EngineConfig)})
    server = ServerConfig(**{f.name: getattr(groups, f.name) for f in dataclasses.fields(ServerConfig)})
    # What is said here is settled here, so that it is not said once more where the engine starts.
    if engine.model.trust_remote_code:
        settings.notes.append(REMOTE_CODE_NOTE)
        engine = dataclasses.replace(engine, model=dataclasses.replace(engine.model, trust_remote_code=False))
    if engine.model.dtype == "float16":
        settings.notes.append(FLOAT16_NOTE)
        engine = dataclasses.replace(engine, model=dataclasses.replace(engine.model, dtype="bfloat16"))
    engine.validate()
    server.validate()
    return ServeArguments(engine, server, settings.notes)


def _all_groups() -> dict[str, Any]:
    """Name -> dataclass of every group of both configs."""
    return {**typing.get_type_hints(EngineConfig), **typing.get_type_hints(ServerConfig)}


def _groups_for_help(topic: str) -> dict[str, Any]:
    """The groups that ``--help=topic`` shows; the topic is a group's name or a flag's, "" and "all" are all.

    Of a flag that is no setting here, it prints what becomes of it and raises SystemExit(0).

    Raises:
        ConfigError: there is no such group or flag.
    """
    groups = _all_groups()
    word = topic.strip("-").replace("-", "_").lower()
    if word in ("", "all"):
        return groups
    if word == "frontend":
        return typing.get_type_hints(ServerConfig)
    for name, kind in groups.items():
        if word in (name, kind.__name__.lower()) or word.removeprefix("no_") in typing.get_type_hints(kind):
            return {name: kind}
    flag = "--" + word.replace("_", "-")
    if foreign := FOREIGN_FLAGS.get(flag):
        print(f"{flag} {'cannot be honoured' if foreign.refused else 'has no effect'}: {foreign.why}")
        raise SystemExit(0)
    raise ConfigError(f"--help={topic}: no such flag or group; the groups are {', '.join(groups)}")


def _command(groups: dict[str, Any]) -> type:
    """One dataclass with ``groups`` as its fields."""
    fields = [(name, kind, field(default_factory=kind)) for name, kind in groups.items()]
    return dataclasses.make_dataclass("Serve", fields, frozen=True)


def _run_serve(argv: list[str], groups: dict[str, Any] | None = None) -> Any:
    """Types the values. Raises ConfigError; SystemExit(0) after ``--help``."""
    return run_tyro(_command(groups or _all_groups()), argv, prog=PROG, description=DESCRIPTION)


def run_tyro(command: type[T], argv: Sequence[str], *, prog: str, description: str) -> T:
    """Types ``argv`` as the dataclass ``command``, whose fields are flags or groups of flags.

    Raises:
        ConfigError: a flag is unknown or has a wrong value.
        SystemExit: with 0, after ``--help``.
    """
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.cli(
                command,
                prog=prog,
                description=description,
                args=list(argv),
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_value_rules(),
            )
    except SystemExit as end:
        if not end.code:
            raise
        hint = f"wrong arguments; see {prog.partition(' [')[0]} --help"
        raise ConfigError(_first_paragraph(complaints.getvalue()) or hint) from None


def _first_paragraph(box: str) -> str:
    """The text of tyro's error box up to its first rule, on one line."""
    lines = []
    for line in box.splitlines():
        text = line.strip().strip("│").strip()
        if text.startswith("╭"):
            continue
        if not text or set(text) <= set("─╰╯"):
            break
        lines.append(text)
    return " ".join(lines)


def _value_rules() -> tyro.constructors.ConstructorRegistry:
    """JSON objects, sizes such as 8k, and optional values."""
    registry = tyro.constructors.ConstructorRegistry()
    spec = tyro.constructors.PrimitiveConstructorSpec

    @registry.primitive_rule
    def json_object(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if not is_json(info.type):
            return None
        return spec(
            nargs=1,
            metavar="JSON",
            instance_from_str=lambda words: _json_object(words[0]),
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [json.dumps(value)],
        )

    @registry.primitive_rule
    def integer(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if info.type is not int:
            return None
        return spec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda words: _integer(words[0]),
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def optional(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if typing.get_origin(info.type) not in (types.UnionType, typing.Union):
            return None
        kinds = [kind for kind in typing.get_args(info.type) if kind is not types.NoneType]
        if kinds not in ([int], [str]):
            return None
        [kind] = kinds
        read = _integer if kind is int else str
        return spec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=lambda words: None if words[0] in ("None", "null", "auto") else read(words[0]),
            is_instance=lambda value: value is None or isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return value


def _integer(text: str) -> int:
    """Digits, perhaps with a size: k, m, g are powers of 1000, K, M, G of 1024."""
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)([kmgKMG])", text)
    if match is None:
        return int(text)
    size = float(match[1]) * _SIZES[match[2]]
    if size != int(size):
        raise ValueError(f"{text!r} is no whole number")
    return int(size)
