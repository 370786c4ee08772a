"""Compiling and walking grammars over a small byte-level vocabulary, without a model."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import tiny_models
from grammar_walks import EOS, allowed, consume, start, walk

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output_params import StructuredOutput

REGEXES = [
    r"[ab]{3}c?",
    r"^\d{4}-\d{2}-\d{2}$",
    r"(foo|ba[rz]|été)+!",
    r"a/b\\c\"d",
    r"(?i)yes|no",
    r"[^a-z\n]{2,4}",
    r"\w{1,5}@\w{1,5}\.(com|org)",
    r"日{2,3}\s?語",
]


@pytest.mark.parametrize("regex", REGEXES)
def test_expressions_match_as_pythons_do(compiler, vocabulary, regex: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        text = walk(start(compiler, regex=regex), vocabulary, rng, 2000).decode()
        assert re.fullmatch(regex, text, re.ASCII if "\\" in regex else 0), text


def test_every_choice_and_nothing_else_comes_out(compiler, vocabulary) -> None:
    choices = ("yes", "no", "nobody", 'a "quoted" \\ one', "città\n\t\x01", "🎉")
    rng = np.random.default_rng(0)
    seen = {walk(start(compiler, choice=choices), vocabulary, rng, 60).decode() for _ in range(200)}
    assert seen == set(choices)


def test_a_padded_embedding_is_never_sampled(compiler) -> None:
    assert max(allowed(start(compiler, regex=r"[\s\S]*"))) < tiny_models.VOCAB
    assert max(allowed(start(compiler, regex="x", after="stop"))) < tiny_models.VOCAB


def test_the_end_is_allowed_where_the_text_may_end_and_only_there(compiler) -> None:
    state = start(compiler, regex="ab?")
    assert EOS not in allowed(state)
    consume(state, allowed(state)[0])
    assert EOS in allowed(state) and len(allowed(state)) == 2 and not state.finished


def test_special_stop_tokens_end_a_text_like_eos_does(compiler, vocabulary) -> None:
    letter = vocabulary.tokens.index(b"b")
    state = start(compiler, frozenset({0, letter}), regex="ab?")
    assert set(allowed(state)).isdisjoint({0, EOS, letter})
    consume(state, allowed(state)[0])
    assert set(allowed(state)) == {0, EOS, letter}


def test_ignoring_eos_goes_on_while_there_is_a_way(compiler) -> None:
    state = compiler.compile(StructuredOutput(regex="ab?")).start(frozenset(), frozenset())
    for _ in range(2):
        assert not state.finished
        consume(state, allowed(state)[0])
    assert state.finished


def test_sequences_of_one_grammar_are_independent(compiler, vocabulary) -> None:
    one, other = start(compiler, regex="ax|by"), start(compiler, regex="ax|by")
    consume(one, vocabulary.tokens.index(b"a"))
    assert {vocabulary.tokens[i] for i in allowed(other)} == {b"a", b"b"}
    consume(other, vocabulary.tokens.index(b"b"))
    assert [vocabulary.tokens[i] for i in allowed(one)] == [b"x"]
    assert [vocabulary.tokens[i] for i in allowed(other)] == [b"y"]


@pytest.mark.parametrize("marker", ["</think>", "e", "aab", "ve"])
def test_behind_a_marker_the_constraint_holds_to_the_byte(compiler, vocabulary, marker: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        state, text = start(compiler, regex="[0-9]{3}", after=marker), b""
        while not state.finished:
            choices = allowed(state)
            # Random text seldom spells the marker: help it on its way.
            known = next(n for n in range(len(marker), -1, -1) if text.endswith(marker[:n].encode()))
            byte = vocabulary.tokens.index(marker[known:][:1].encode() or b"0")
            token = byte if byte in choices and rng.random() < 0.7 else int(rng.choice(choices))
            assert token != EOS
            consume(state, token)
            text += vocabulary.tokens[token]
        before, _, after = text.partition(marker.encode())
        assert re.fullmatch(rb"[0-9]{3}", after), text
        assert marker.encode() not in before


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("42", True),
        ("<t>anything, è\n42 </t>42", True),
        ("<t></t>\n\n42", True),
        ("<t>a</t>b</t>42", False),
        ("<t>a</t>x", False),
        ("<t>42", False),
        ("\n42", False),
        ("x", False),
    ],
)
@pytest.mark.parametrize(
    "constraint", [{"regex": "42"}, {"choice": ("42", "43")}, {"json_schema": '{"const": 42}'}]
)
def test_a_preamble_may_be_there_or_not(
    compiler, vocabulary, constraint: dict[str, Any], text: str, fits: bool
) -> None:
    state = start(compiler, preamble=("<t>", "</t>"), **constraint)
    for byte in text.encode():
        token = vocabulary.tokens.index(bytes([byte]))
        if token not in allowed(state):
            assert not fits
            return
        consume(state, token)
    assert (state.finished or EOS in allowed(state)) == fits


GRAMMARS = {
    'start: "a" b* "é"\nb: "x" | "[" b "]"': r"a(x|\[+x\]+)*é",
    'root ::= "a" [b-d]* ("y" | digit)\ndigit ::= [0-9]': r"a[b-d]*(y|[0-9])",
    "start: WORD (\" \" WORD)*\nWORD: /[a-c]{2}/": r"[a-c]{2}( [a-c]{2})*",
    'start: "v=" %json {"type": "integer", "minimum": 3, "maximum": 5}': "v=[345]",
}  # fmt: skip


@pytest.mark.parametrize(("grammar", "regex"), GRAMMARS.items())
def test_lark_and_gbnf(compiler, vocabulary, grammar: str, regex: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        text = walk(start(compiler, grammar=grammar), vocabulary, rng, 3000).decode()
        assert re.fullmatch(regex, text), text


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": r"(a)\1"}, "backreferences"),
        ({"regex": "a{0}"}, "but the empty one"),
        ({"regex": "a{99999999999}"}, "regex"),
        ({"json_schema": '{"type": "foo"}'}, "Invalid type"),
        ({"json_schema": '{"type": "array", "uniqueItems": true}'}, "uniqueItems"),
        ({"json_schema": '{"not": {"type": "string"}}'}, "not"),
        ({"json_schema": '{"$ref": "https://example.com/schema.json"}'}, "reference|registry|fetch"),
        ({"json_schema": '{"type": "integer", "minimum": 5, "maximum": 3}'}, "Unsatisfiable"),
        ({"json_schema": '{"$ref": "#"}'}, "cannot be honoured"),
        (
            {"json_schema": json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(1001)}})},
            "at most 1000 properties",
        ),
        ({"json_schema": '{"oneOf": [{"minLength": 1}, {"minLength": 2}]}'}, "oneOf"),
        ({"grammar": "start: nothing"}, "unknown name"),
        ({"grammar": "whatever"}, "neither Lark"),
        ({"grammar": "root ::= ((("}, "GBNF"),
        ({"grammar": '%llguidance {"no_forcing": false}\nstart: "a"'}, "options"),
    ],
)
def test_what_cannot_be_honoured_names_the_field(compiler, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why) as caught:
        compiler.compile(StructuredOutput(**fields, param="response_format"))
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 700


def test_a_grammar_knows_the_special_tokens(compiler, vocabulary) -> None:
    name = vocabulary.tokens[0].decode()
    assert allowed(start(compiler, grammar=f'start: {name} "a"')) == [0]
    with pytest.raises(InvalidRequestError, match="cannot be honoured"):
        start(compiler, grammar='start: <|nobody|> "a"')


def test_the_cache_keeps_the_last_ones(vocabulary) -> None:
    compiler = GrammarCompiler(vocabulary)
    first = compiler.compile(StructuredOutput(regex="a"))
    assert compiler.compile(StructuredOutput(regex="a", param="guided_regex")) is first
    assert compiler.compile(StructuredOutput(regex="a", after="b")) is not first
    for i in range(200):
        compiler.compile(StructuredOutput(regex=f"a{i}"))
    assert len(compiler._cache) <= 128
    assert compiler.compile(StructuredOutput(regex="a")) is not first
    large = "|".join(f"w{i}" for i in range(25_000))
    for i in range(12):
        compiler.compile(StructuredOutput(regex=large[: 200_000 + i]))
    assert compiler._cached_length <= 1 << 21
    assert compiler._cached_length == sum(length for _, length in compiler._cache.values())


def test_formats_nobody_knows_and_idle_keywords_mean_nothing(compiler, vocabulary) -> None:
    schema = {"type": "string", "format": "int64", "pattern": "^a$", "uniqueItems": False}
    state = start(compiler, json_schema=json.dumps(schema))
    assert walk(state, vocabulary, np.random.default_rng(0), 10) == b'"a"'


def test_a_property_may_be_called_like_a_keyword(compiler, vocabulary) -> None:
    fields = {"format": {"const": 1}, "multipleOf": {"const": 2}, "properties": {"const": 3}}
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    state = start(
        compiler,
        json_schema=json.dumps(schema),
        whitespace_flexible=False,
        disable_additional_properties=True,
    )
    text = walk(state, vocabulary, np.random.default_rng(0), 100)
    assert text == b'{"format":1,"multipleOf":2,"properties":3}'


_OBJECT = {"type": "object"}
_A, _B = {"a": {"const": 1}}, {"b": {"const": 2}}


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        ({"type": "object", "properties": _A}, {b"{}", b'{"a":1}'}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {**_OBJECT, "properties": _A}}}, {b"{}", b'{"a":1}'}),
        ({"anyOf": [{**_OBJECT, "properties": _A, "required": ["a"]}, {"const": 5}]}, {b'{"a":1}', b"5"}),
    ],
)
def test_objects_have_only_the_properties_that_are_named(
    compiler, vocabulary, schema: dict[str, Any], texts: set[bytes]
) -> None:
    for seed in range(10):
        assert _closed(compiler, vocabulary, schema, seed) in texts


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": _A, "required": ["a", "b"]},
        {"properties": _A, "required": ["a"], "minProperties": 2},
        {"properties": _A, "$ref": "#/$defs/x", "$defs": {"x": {"properties": _B, "required": ["b"]}}},
        {"allOf": [{"properties": _A, "required": ["a"]}, {"properties": _B, "required": ["b"]}]},
        {"properties": _A, "anyOf": [{"properties": _B, "required": ["b"]}, {"properties": _A}]},
    ],
)
def test_objects_stay_open_where_no_schema_names_all_their_properties(
    compiler, vocabulary, schema: dict[str, Any]
) -> None:
    state = _start_closed(compiler, {**_OBJECT, **schema})
    for part in (b'{"a":1', b","):
        for byte in part:
            token = vocabulary.tokens.index(bytes([byte]))
            assert token in allowed(state)
            consume(state, token)


def _start_closed(compiler, schema: dict[str, Any]):
    return start(
        compiler,
        json_schema=json.dumps(schema),
        whitespace_flexible=False,
        disable_additional_properties=True,
    )


def _closed(compiler, vocabulary, schema: dict[str, Any], seed: int) -> bytes:
    return walk(_start_closed(compiler, schema), vocabulary, np.random.default_rng(seed), 100)


def test_whitespace_of_ones_own(compiler, vocabulary) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]})
    rng = np.random.default_rng(0)
    texts = {
        walk(
            start(
                compiler,
                json_schema=schema,
                whitespace_pattern=r"\n? ",
                disable_additional_properties=True,
            ),
            vocabulary,
            rng,
            100,
        )
        for _ in range(20)
    }
    assert len(texts) > 3
    assert all(re.fullmatch(rb'\{((\n? )?)"a"(\n? )?:(\n? )?1(\n? )?\}', text) for text in texts), texts
