"""Spellings of flags: from what people write to the one command line that tyro reads.

Knows dashes and underscores, ``--flag=value``, aliases, lists, ``--json-flag.key value``, YAML files, and the
flags of vLLM that are no settings here. Does not know what a value means.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from api.commands.aliases import ALIASES, VALUE_ALIASES
from api.commands.compatibility import FOREIGN_FLAGS, Foreign
from api.commands.fields import flag_types, is_json, is_list, settings
from vllm_jax.errors import ConfigError

_NONE = Foreign(0, "")
_ONE_AT_A_TIME = frozenset({"--middleware"})
"""Lists that take one word each time they are written."""


class Settings:
    """Flags and their values, as written, under their one canonical spelling."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.json_parts: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.config_file: str | None = None
        self.model: str | None = None

    def read(self, argv: Sequence[str]) -> None:
        """Takes in a command line. Raises ConfigError."""
        rest = list(argv)
        while rest:
            token = rest.pop(0)
            if not _is_flag(token):
                self._set_model(token)
                continue
            written, equals, value = token.partition("=")
            has_value = bool(equals)
            if has_value:
                rest.insert(0, value)
            name = _canonical(written)
            if match := re.fullmatch(r"(-[a-zO]+)(\d+)", name):  # -O3, -tp2
                name = "--optimization-level" if match[1] == "-O" else ALIASES.get(match[1], name)
                if name != written:
                    rest.insert(0, match[2])
                    has_value = True
            if name == "--config":
                self.config_file = _take(written, rest, has_value)
            elif name in FOREIGN_FLAGS or _positive(name) in FOREIGN_FLAGS:
                self._foreign(name, written, rest, has_value)
            elif FOREIGN_FLAGS.get(name.partition(".")[0], _NONE).values == 1:  # a key of a JSON object
                value = _take(written, rest, has_value)
                self._foreign(name.partition(".")[0], written, [value], True, whole=False)
            elif "." in name:
                self._json_part(name, written, rest, has_value)
            else:
                self._flag(name, written, rest, has_value)

    def _flag(self, name: str, written: str, rest: list[str], has_value: bool) -> None:
        kind = flag_types().get(name)
        if kind is None:
            raise ConfigError(f"unknown flag {written}{_suggestion(name)}")
        if kind is bool:
            if has_value:
                raise ConfigError(f"{written} takes no value; switches have a --no- form")
            self.values.pop(_opposite(name), None)
            self.values[name] = []
        elif is_list(kind):
            most = 1 if name in _ONE_AT_A_TIME or has_value else None
            self.values.setdefault(name, []).extend(_take_list(written, rest, most))
        elif name == "--hf-token" and not has_value and (not rest or _is_flag(rest[0])):
            self.values[name] = [_stored_token()]
        else:
            value = _take(written, rest, has_value)
            self.values[name] = [VALUE_ALIASES.get((name, value), value)]

    def _set_model(self, value: str) -> None:
        if self.model is not None:
            raise ConfigError(f"unexpected argument {value!r}: the model is {self.model!r} already")
        self.model = value

    def _json_part(self, name: str, written: str, rest: list[str], has_value: bool) -> None:
        flag, *path = name.split(".")
        if not is_json(flag_types().get(flag)):
            raise ConfigError(f"unknown flag {written}: {flag} takes no JSON object")
        node = self.json_parts.setdefault(flag, {})
        for key in path[:-1]:
            node = node.setdefault(key.replace("-", "_"), {})
        text = _take(written, rest, has_value)
        try:
            node[path[-1].replace("-", "_")] = json.loads(text)
        except ValueError:
            node[path[-1].replace("-", "_")] = text

    def _foreign(
        self, name: str, written: str, rest: list[str], has_value: bool, *, whole: bool = True
    ) -> None:
        """Takes in a flag that is no setting here; not ``whole``: only a key of its JSON object."""
        negated = name not in FOREIGN_FLAGS
        flag = FOREIGN_FLAGS[_positive(name) if negated else name]
        if has_value and (negated or not flag.values):
            raise ConfigError(f"{written} takes no value; switches have a --no- form")
        values: list[str] = []
        if flag.values == 1 and not negated:
            values.append(_take(written, rest, has_value))
        elif flag.values < 0 and not negated:
            while rest and not _is_flag(rest[0]) and re.fullmatch(flag.pattern, rest[0], re.DOTALL):
                values.append(rest.pop(0))
                if has_value or values[0].startswith("["):
                    break
            if not values and not re.fullmatch(flag.pattern, ""):
                raise ConfigError(f"{name} needs a value")
        if negated or (whole and values and set(values) <= flag.harmless):
            return
        if flag.refused:
            raise ConfigError(f"{name} cannot be honoured: {flag.why}")
        note = f"{name} has no effect: {flag.why}"
        if note not in self.notes:
            self.notes.append(note)

    def lay_over(self, below: Settings) -> None:
        """Adds from ``below`` what is not set here."""
        if self.model is not None:
            below.values.pop("--model", None)
        for name, values in below.values.items():
            if name not in self.values and _opposite(name) not in self.values:
                self.values[name] = values
        for name, parts in below.json_parts.items():
            self.json_parts.setdefault(name, parts)
        self.notes += [note for note in below.notes if note not in self.notes]

    def check_model(self) -> None:
        """Raises ConfigError where a list seems to have taken the model in: the demo would be served."""
        if self.model is not None or "--model" in self.values:
            return
        for name, words in self.values.items():
            owner_and_name = re.fullmatch(r"[\w.-]+/[\w.-]+", words[-1]) if words else None
            several = is_list(flag_types()[name]) and len(words) > 1
            if name == "--served-model-name" or (several and owner_and_name):
                raise ConfigError(
                    f"{name} takes every word up to the next flag, and no model is named: put it first, "
                    f"as in vllm-jax serve MODEL {name} {words[0]} (the bundled model is called demo)"
                )

    def canonical(self) -> list[str]:
        """A command line in the one spelling that tyro knows."""
        argv: list[str] = []
        values = dict(self.values)
        if self.model is not None and values.setdefault("--model", [self.model]) != [self.model]:
            raise ConfigError(f"the model is {self.model!r}, but --model says {values['--model'][0]!r}")
        for name, parts in self.json_parts.items():
            written = values.get(name, ["{}"])[0]
            try:
                whole = json.loads(written)
            except ValueError:
                raise ConfigError(f"{name} must be a JSON object, got {written!r}") from None
            values[name] = [json.dumps({**whole, **parts})]
        for name, given in values.items():
            if flag_types()[name] is bool:
                argv.append(name)
            elif is_list(flag_types()[name]):
                argv += [name, *given]
            else:
                argv.append(f"{name}={given[0]}")
        return argv


def _is_flag(token: str) -> bool:
    return token.startswith("-") and re.fullmatch(r"-\d+(\.\d+)?(e-?\d+)?|-", token) is None


def _canonical(written: str) -> str:
    head, dot, path = written.partition(".")
    name = head.replace("_", "-") if head.startswith("--") else head
    return ALIASES.get(name, name) + dot + path


def _take(written: str, rest: list[str], has_value: bool) -> str:
    if not rest or (_is_flag(rest[0]) and not has_value):
        raise ConfigError(f"{written} needs a value")
    return rest.pop(0)


def _take_list(written: str, rest: list[str], most: int | None) -> list[str]:
    """Words up to the next flag, ``most`` of them at most; or one JSON list of strings."""
    words: list[str] = []
    while rest and len(words) != most and not _is_flag(rest[0]):
        words.append(rest.pop(0))
        if len(words) == 1 and (listed := _json_list(words[0])) is not None:
            if not all(isinstance(word, str) for word in listed):
                raise ConfigError(f"{written} must be words or a JSON list of strings, got {words[0]!r}")
            return listed
    if not words:
        raise ConfigError(f"{written} needs a value")
    return words


def _json_list(word: str) -> list[Any] | None:
    """The list that ``word`` is the JSON of, if it is."""
    if not word.startswith("["):
        return None
    try:
        return json.loads(word)
    except ValueError:
        return None


def _stored_token() -> str:
    """What ``--hf-token`` without a value stands for."""
    from huggingface_hub import get_token  # only here: it takes a while

    if token := get_token():
        return token
    raise ConfigError(
        "--hf-token without a value needs a token that is stored (hf auth login) or in HF_TOKEN"
    )


def yaml_arguments(path: str) -> list[str]:
    """A file's settings as a command line. Raises ConfigError."""
    try:
        settings = yaml.safe_load(Path(path).read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--config: {path} must map flags to values")
    argv: list[str] = []
    for key, value in settings.items():
        name = "--" + str(key).replace("_", "-").lstrip("-")
        if name == "--config":
            raise ConfigError(f"--config: {path} must not name another file")
        if name == "--model-tag":
            name = "--model"
        if value is None:
            continue
        if isinstance(value, bool):
            argv.append(name if value else "--no-" + name[2:])
        elif isinstance(value, dict):
            argv.append(f"{name}={json.dumps(value)}")
        elif isinstance(value, list):
            argv += [name, json.dumps([str(v) for v in value])]
        else:
            argv.append(f"{name}={value}")
    return argv


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [*flag_types(), *FOREIGN_FLAGS], n=1)
    return f"; did you mean {close[0]}?" if close else "; see vllm-jax serve --help"


def _positive(name: str) -> str:
    return "--" + name[5:] if name.startswith("--no-") else name


def _opposite(name: str) -> str:
    return "--no-" + name[2:] if name in settings() else _positive(name)
