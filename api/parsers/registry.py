"""The formats by name, and which one a chat template speaks.

Knows names, marks and the signs by which a template's format is recognized. Does not know requests.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Container
from dataclasses import dataclass

from api.parsers import harmony
from api.parsers.call_tags import MakeTag
from api.parsers.events import Parse
from api.parsers.reasoning import deepseek_r1, gpt_oss, qwen3
from api.parsers.reasoning.thinking import Marks
from api.parsers.source import Source
from api.parsers.tools import (
    deepseek,
    hermes,
    json,
    llama3_json,
    mistral,
    openai_harmony,
    pythonic,
    qwen3_coder,
)
from vllm_jax.tokenizer.chat_template import ChatTemplate

LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family writes calls.

    ``parse`` gets the names of the tools, or a mapping of them to the schemas of their arguments.
    ``markers`` must be in the text that ``parse`` reads, although some vocabularies have them as special
    tokens. ``id_length``: its templates take ids of so many letters and digits only. ``strict`` makes the
    grammar that calls are held to; without it they cannot be.
    """

    name: str
    parse: Callable[[Source, Container[str]], Parse[None]]
    markers: tuple[str, ...] = ()
    id_length: int | None = None
    strict: MakeTag | None = None


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """How a family writes its reasoning: between ``marks``, or in harmony's channels (None).

    ``end`` is the text behind which the answer proper begins. ``span`` is the mark that opens reasoning, and
    those that close it.
    """

    name: str
    markers: tuple[str, ...]
    end: str
    span: tuple[str, tuple[str, ...]]
    marks: Marks | None = None


_JSON = ToolFormat("json", json.parse, json.MARKERS, strict=json.strict)
_HERMES = ToolFormat("hermes", hermes.parse, hermes.MARKERS, strict=hermes.strict)
_LLAMA = ToolFormat("llama3_json", llama3_json.parse, llama3_json.MARKERS, strict=llama3_json.strict)
_MISTRAL = ToolFormat("mistral", mistral.parse, mistral.MARKERS, id_length=9, strict=mistral.strict)
_PYTHONIC = ToolFormat("pythonic", pythonic.parse, pythonic.MARKERS)
_DEEPSEEK = ToolFormat("deepseek", deepseek.parse, deepseek.MARKERS, strict=deepseek.strict)
_QWEN3_CODER = ToolFormat("qwen3_coder", qwen3_coder.parse, qwen3_coder.MARKERS)
_HARMONY = ToolFormat("openai", openai_harmony.parse, openai_harmony.MARKERS)

TOOL_FORMATS: dict[str, ToolFormat] = {
    f.name: f for f in (_JSON, _HERMES, _LLAMA, _MISTRAL, _PYTHONIC, _DEEPSEEK, _QWEN3_CODER, _HARMONY)
}
"""By the names of --tool-call-parser."""


def _between(name: str, marks: Marks) -> ReasoningFormat:
    return ReasoningFormat(name, (marks.start, marks.end), marks.end, (marks.start, (marks.end,)), marks)


_R1 = _between("deepseek_r1", deepseek_r1.MARKS)
_QWEN3 = _between("qwen3", qwen3.MARKS)
_GPT_OSS = ReasoningFormat("gpt_oss", gpt_oss.MARKERS, gpt_oss.FINAL, (gpt_oss.ANALYSIS, harmony.ENDS))

REASONING_FORMATS: dict[str, ReasoningFormat] = {f.name: f for f in (_R1, _QWEN3, _GPT_OSS)}
"""By the names of --reasoning-parser."""

_TOOL_SIGNS: tuple[tuple[str, ToolFormat], ...] = (
    (harmony.CHANNEL, _HARMONY),
    (deepseek.CALLS_BEGIN, _DEEPSEEK),
    (mistral.CALLS, _MISTRAL),
    (qwen3_coder.FUNCTION, _QWEN3_CODER),  # inside of <tool_call>
    (hermes.START, _HERMES),
    ("[func_name1(", _PYTHONIC),
    (pythonic.PYTHON_START, _PYTHONIC),
    (llama3_json.PYTHON_TAG, _LLAMA),
    ('"parameters": dictionary of argument name', _LLAMA),
)
"""What a template says, and the format that its model then answers in; the first that is there counts."""


def detect_tool_format(template: ChatTemplate) -> ToolFormat | None:
    """The format of a template's models; None where it is not known here.

    A template that knows nothing of tools gets them by the built-in prompt, which asks for JSON.
    """
    if not template.knows_tools:
        return _JSON
    return next((found for sign, found in _TOOL_SIGNS if sign in template.tool_text), _JSON)


def detect_reasoning_format(template: ChatTemplate) -> ReasoningFormat | None:
    """The format of a template's models; None where they do not reason aloud."""
    if harmony.CHANNEL in template.text:
        return _GPT_OSS
    if qwen3.MARKS.end not in template.text:
        return None
    return _R1 if "<｜Assistant｜>" in template.text else _QWEN3
