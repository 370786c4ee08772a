"""What an output must look like, as a request states it. Knows no tokenizer and compiles nothing.

A :class:`StructuredOutput` that exists names exactly one kind of constraint, within the limits on its size.
Whether its schema, expression or grammar can be compiled is found out by ``vllm_jax.structured_output``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_jax.errors import InvalidRequestError

MAX_SOURCE_LENGTH = 1 << 18
"""Most characters of a schema, expression or grammar; of all choices together."""
MAX_CHOICES = 4096
MAX_SCHEMA_NESTING = 64
"""Deepest nesting of objects and arrays in a schema."""
MAX_MARKER_LENGTH = 256
"""Most characters of ``after`` and of ``whitespace_pattern``."""

KINDS = ("json_schema", "json_object", "regex", "choice", "grammar", "structural_tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutput:
    """A constraint on the text of an output. Exactly one of the kinds is given.

    Attributes:
        json_schema: JSON text of a schema (an object, or ``true``): the output is JSON that it admits.
        json_object: The output is some JSON object.
        regex: The whole output matches this expression, in Rust's syntax: no look-around, no backreferences.
            ``\\d``, ``\\w`` and ``\\s`` are those of ASCII.
        choice: The output is one of these strings.
        grammar: The output is a sentence of this grammar, in Lark's syntax or in GBNF (``root ::= ...``).
        structural_tag: JSON text ``{"structures": [{"begin", "schema", "end"}], "triggers": [...]}``: the
            output is free text in which a trigger is always the beginning of one of the structures. Or
            ``{"format": {...}}``, a tree of formats (see ``structured_output/structural_tag.py``).
        whitespace_flexible: Whether JSON may have whitespace between its tokens; else it is compact.
        whitespace_pattern: An expression for that whitespace, instead of JSON's own.
        disable_additional_properties: Objects of a schema have no properties that it does not name, where
            it does not speak about them.
        best_effort: Keywords of a JSON schema that cannot be enforced are left out instead of refused.
        after: The output is free until this text has been generated; the constraint holds for what follows.
        preamble: Two marks. The output may begin with the first, and is then free up to the second; the
            constraint holds for the rest. Not together with ``grammar`` or ``after``.
        param: What errors call this constraint: the field of the request that it came from.

    Raises:
        InvalidRequestError: no kind or several, a value of the wrong type, or one beyond the limits.
    """

    json_schema: str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None
    structural_tag: str | None = None
    whitespace_flexible: bool = True
    whitespace_pattern: str | None = None
    disable_additional_properties: bool = False
    best_effort: bool = False
    after: str | None = None
    preamble: tuple[str, str] | None = None
    param: str = field(default="structured_output", compare=False)

    def __post_init__(self) -> None:
        for name in ("json_object", "whitespace_flexible", "disable_additional_properties", "best_effort"):
            if not isinstance(getattr(self, name), bool):
                raise self._error(f"{name} must be a boolean")
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise self._error(
                "give exactly one kind of structured output, one of "
                f"{', '.join(KINDS)}; {'there is none' if not given else 'given are ' + ', '.join(given)}"
            )
        for name in ("json_schema", "regex", "grammar", "structural_tag"):
            self._check_text(name, MAX_SOURCE_LENGTH)
        for name in ("after", "whitespace_pattern"):
            self._check_text(name, MAX_MARKER_LENGTH)
        if self.preamble is not None:
            self._check_preamble(self.preamble)
        if self.choice is not None:
            object.__setattr__(self, "choice", self._choices(self.choice))
        if self.json_schema is not None:
            self._check_schema(self.json_schema)

    @property
    def kind(self) -> str:
        """The one of ``KINDS`` that is given."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    def _error(self, message: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self.param}: {message}", self.param)

    def _check_text(self, name: str, limit: int) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not isinstance(value, str):
            raise self._error(f"{name} must be a string, not {type(value).__name__}")
        if not value:
            raise self._error(f"{name} must not be empty")
        if len(value) > limit:
            raise self._error(f"{name} must have at most {limit} characters, got {len(value)}")
        self._check_unicode(name, value)

    def _check_preamble(self, marks: Any) -> None:
        if not isinstance(marks, tuple) or len(marks) != 2:
            raise self._error("preamble must be a tuple of two strings")
        for mark in marks:
            if not isinstance(mark, str) or not 1 <= len(mark) <= MAX_MARKER_LENGTH:
                raise self._error(f"preamble must have marks of 1 to {MAX_MARKER_LENGTH} characters")
            self._check_unicode("preamble", mark)
        if self.kind == "grammar" or self.after is not None:
            raise self._error("preamble does not go with grammar or after")

    def _check_unicode(self, name: str, value: str) -> None:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._error(f"{name} must be Unicode text, without lone surrogates") from None

    def _choices(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise self._error("choice must be a list of strings")
        choices = tuple(value)
        if not 1 <= len(choices) <= MAX_CHOICES:
            raise self._error(f"choice must have 1 to {MAX_CHOICES} entries, got {len(choices)}")
        for choice in choices:
            if not isinstance(choice, str) or not choice:
                raise self._error("choice must contain strings that are not empty")
            self._check_unicode("choice", choice)
        if sum(map(len, choices)) > MAX_SOURCE_LENGTH:
            raise self._error(f"choice must have at most {MAX_SOURCE_LENGTH} characters in all")
        return tuple(dict.fromkeys(choices))

    def _check_schema(self, text: str) -> None:
        try:
            schema = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise self._error("the JSON schema is no valid JSON") from None
        if not (isinstance(schema, dict) or schema is True):
            raise self._error("a JSON schema must be an object, or true")
        level = [schema]
        for _ in range(MAX_SCHEMA_NESTING):
            level = [child for node in level for child in _children(node)]
            if not level:
                return
        raise self._error(f"the JSON schema nests deeper than {MAX_SCHEMA_NESTING} levels")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """The same in vLLM's spelling, for ``SamplingParams(structured_outputs=...)``.

    Attributes:
        json: A JSON schema: JSON text, or what it stands for.
        regex: An expression that the whole output matches.
        choice: The output is one of these strings.
        grammar: Lark or GBNF.
        json_object: Any JSON object.
        structural_tag: JSON text, or what it stands for.
        disable_any_whitespace: JSON is compact.
        disable_additional_properties: Objects of a schema have no properties that it does not name.
        whitespace_pattern: An expression for the whitespace in JSON.

    Raises:
        InvalidRequestError: as for :class:`StructuredOutput`, which ``output`` is.
    """

    json: str | dict[str, Any] | bool | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    output: StructuredOutput = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.disable_any_whitespace, bool):
            raise InvalidRequestError(
                "structured_outputs: disable_any_whitespace must be a boolean", "structured_outputs"
            )
        output = StructuredOutput(
            json_schema=_json_text(self.json, dict | bool),
            regex=self.regex,
            choice=self.choice,  # type: ignore[arg-type]
            grammar=self.grammar,
            json_object=self.json_object or False,
            structural_tag=_json_text(self.structural_tag, dict),
            whitespace_flexible=not self.disable_any_whitespace,
            whitespace_pattern=self.whitespace_pattern,
            disable_additional_properties=self.disable_additional_properties,
            param="structured_outputs",
        )
        object.__setattr__(self, "output", output)


def _json_text(value: Any, kinds: Any) -> Any:
    """What ``value`` stands for as JSON text; anything else as it is, for the checks to refuse."""
    if not isinstance(value, kinds):
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequestError("structured_outputs: it must be JSON", "structured_outputs") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _children(node: Any) -> list[Any]:
    """The objects and arrays right inside ``node``."""
    values = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [value for value in values if isinstance(value, dict | list)]
