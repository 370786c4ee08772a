"""Strict tools that the model is free to call: in every format, what is a call satisfies its schema.

The oracles: this server's parsers, which read what families write, and the jsonschema package.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tiny_models

from api.parsers.answer import AnswerParser
from api.parsers.call_tags import CallForm
from api.parsers.events import CallArguments, CallEnd, CallStart, Content
from api.parsers.registry import TOOL_FORMATS
from api.parsers.source import SourceParser
from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.grammar import GrammarState, MaskMaker
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.structured_output_params import StructuredOutput
from vllm_jax.tokenizer.loader import load_tokenizer

EOS = 1
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Roma", "Milano"]}, "days": {"type": "integer", "minimum": 7}},
    "required": ["city"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": CITY, "stop": {"type": "object"}}
FORMS = [
    CallForm("get_weather", {"type": "json_schema", "json_schema": CITY}),
    CallForm("stop", {"type": "json_schema", "json_schema": {"type": "object"}, "strict": False}),
]
BEGINNINGS = {
    "hermes": ['I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "'],
    "json": ['[{"name": "stop", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "'],
    "llama3_json": [
        '{"name": "get_weather", "parameters": {"city": "',
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "',
    ],
    "mistral": [
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "',
        'Look:[TOOL_CALLS]get_weather[ARGS]{"city": "',
        '[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "',
    ],
    "deepseek": [
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "',
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "',
    ],
}
CASES = [(kind, text) for kind, texts in BEGINNINGS.items() for text in texts]
FREE = [
    "There is nothing to call.",
    '```python\nprint("hi")\n```',
    "[a link](to)",
    '{"temperature": 20}',
    "{",
]


@pytest.fixture(scope="module", params=["spelled", "special"])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """Where the marks of the formats are ordinary text, and where they are special tokens."""
    directory: Path = tmp_path_factory.mktemp(request.param)
    tokenizer = copy.deepcopy(tiny_models.tokenizer())
    if request.param == "special":
        marks = sorted({mark for format in TOOL_FORMATS.values() for mark in format.markers})
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.save_pretrained(directory)
    return Vocabulary(load_tokenizer(directory), 500, {EOS})


@pytest.fixture(scope="module")
def compiler(vocabulary: Vocabulary) -> GrammarCompiler:
    return GrammarCompiler(vocabulary)


def start(compiler: GrammarCompiler, kind: str, *, parallel: bool = True) -> GrammarState:
    strict = TOOL_FORMATS[kind].strict
    assert strict is not None
    tag = json.dumps({"format": strict(FORMS, parallel)})
    output = StructuredOutput(structural_tag=tag, whitespace_pattern=" ?")
    return compiler.compile(output).start(frozenset({EOS}), frozenset())


def allowed(state: GrammarState) -> list[int]:
    return np.flatnonzero(np.unpackbits(state.mask.view(np.uint8), bitorder="little")).tolist()


def spell(state: GrammarState, vocabulary: Vocabulary, text: str) -> bool:
    """Takes the text as its tokens, special ones where it has them; whether all were allowed."""
    for token in vocabulary._tokenizer.encode(text, add_special_tokens=False):
        if token not in allowed(state):
            return False
        if state.consume(token):
            MaskMaker(1).make([state])
        assert state.error is None
    return True


def read(kind: str, text: str) -> tuple[str, list[tuple[str, str]]]:
    parser = AnswerParser([SourceParser(lambda source: TOOL_FORMATS[kind].parse(source, set(SCHEMAS)))])
    content, calls = "", []
    for event in parser.feed(text) + parser.finish():
        match event:
            case Content(piece):
                content += piece
            case CallStart(name):
                calls.append((name, ""))
            case CallArguments(piece):
                calls[-1] = (calls[-1][0], calls[-1][1] + piece)
            case CallEnd(complete):
                assert complete, text
    return content, calls


@pytest.mark.parametrize(("kind", "beginning"), CASES)
def test_calls_satisfy_their_schemas(compiler, vocabulary, kind: str, beginning: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        state = start(compiler, kind, parallel="}}, " in beginning)
        assert spell(state, vocabulary, beginning), "a model writes it so"
        text = beginning.encode()
        for _ in range(300):
            choices = allowed(state)
            if EOS in choices or state.finished:
                break
            token = int(rng.choice(choices))
            if state.consume(token):
                MaskMaker(1).make([state])
            assert state.error is None
            text += vocabulary.tokens[token]
        content, calls = read(kind, text.decode())
        assert calls and calls[-1][0] == "get_weather" and "city" not in content, text
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize(("kind", "beginning"), CASES)
def test_other_arguments_and_other_names_are_not_allowed(
    compiler, vocabulary, kind: str, beginning: str
) -> None:
    state = start(compiler, kind)
    assert spell(state, vocabulary, beginning)
    assert not spell(state, vocabulary, "Napoli")
    assert not spell(start(compiler, kind), vocabulary, beginning.replace("get_weather", "get_whatever"))
    assert not spell(start(compiler, kind), vocabulary, beginning.replace("city", "town"))


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_text_is_free(compiler, vocabulary, kind: str) -> None:
    for text in FREE:
        state = start(compiler, kind)
        assert spell(state, vocabulary, text) and EOS in allowed(state)
        assert read(kind, text) == (text, [])


def test_formats_that_cannot_be_constrained_say_so() -> None:
    assert {name for name, format in TOOL_FORMATS.items() if format.strict is None} == {
        "pythonic",
        "openai",
        "qwen3_coder",
    }
