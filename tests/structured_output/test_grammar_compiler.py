"""Compiling and walking grammars over a small byte-level vocabulary, without a model."""

from __future__ import annotations

import gc
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tiny_models

from vllm_jax.errors import InvalidRequestError
from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.grammar import GrammarState, MaskMaker
from vllm_jax.structured_output.trials import MAX_PROCESSES
from vllm_jax.structured_output.vocabulary import Vocabulary
from vllm_jax.structured_output_params import StructuredOutput
from vllm_jax.tokenizer.loader import load_tokenizer

EOS = 1
SIZE = 400  # more than the tokenizer has: a padded embedding


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_models.tokenizer().save_pretrained(directory)
    return Vocabulary(load_tokenizer(directory), SIZE, {EOS})


@pytest.fixture(scope="module")
def compiler(vocabulary: Vocabulary) -> GrammarCompiler:
    return GrammarCompiler(vocabulary)


def start(compiler: GrammarCompiler, stops: frozenset[int] = frozenset(), **fields: Any) -> GrammarState:
    return compiler.compile(StructuredOutput(**fields)).start(frozenset({EOS}), stops)


def allowed(state: GrammarState) -> list[int]:
    return np.flatnonzero(np.unpackbits(state.mask.view(np.uint8), bitorder="little")).tolist()


def consume(state: GrammarState, token: int) -> None:
    assert token in allowed(state)
    if state.consume(token):
        MaskMaker(1).make([state])


def walk(state: GrammarState, vocabulary: Vocabulary, rng: np.random.Generator, steps: int) -> bytes:
    """Takes random allowed tokens until the end; the bytes of the text."""
    text = b""
    for _ in range(steps):
        token = int(rng.choice(allowed(state)))
        if token == EOS:
            return text
        consume(state, token)
        assert state.error is None
        text += vocabulary.tokens[token]
        if state.finished:
            return text
    pytest.fail(f"no end after {steps} tokens: {text!r}")


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


TAGS = {
    "structures": [
        {"begin": "<f=a>", "schema": {"enum": [1, 2]}, "end": "</f>"},
        {"begin": "<f=b>", "schema": {"const": "x"}, "end": ""},
        {"begin": "[", "schema": {"type": "null"}, "end": "]"},
    ],
    "triggers": ["<f=", "["],
}


def test_tags_inside_free_text(compiler, vocabulary) -> None:
    """Behind every trigger there is one of its tags, whatever stands around them."""
    rng = np.random.default_rng(2)
    tag, seen = r'<f=a>[12]</f>|<f=b>"x"|\[null\]', set()
    for _ in range(100):
        state, text = start(compiler, structural_tag=json.dumps(TAGS), whitespace_flexible=False), b""
        for _ in range(60):
            choices = allowed(state)
            wanted = next(t for t in (b"<f=", b"[") if rng.random() < 0.5 or t == b"[")
            known = next(n for n in range(len(wanted) - 1, -1, -1) if text.endswith(wanted[:n]))
            helpful = vocabulary.tokens.index(wanted[known : known + 1])
            token = helpful if helpful in choices and rng.random() < 0.6 else int(rng.choice(choices))
            if token == EOS:
                break
            consume(state, token)
            assert state.error is None
            text += vocabulary.tokens[token]
        if EOS not in allowed(state):
            continue  # in the middle of a tag
        free = re.sub(tag.encode(), b"", text)
        assert b"<f=" not in free and b"[" not in free, text
        seen |= set(re.findall(tag.encode(), text))
    assert len(seen) == 4


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
        ({"structural_tag": "{}"}, "structures and triggers"),
        ({"structural_tag": '{"structures": [], "triggers": []}'}, "1 to 128"),
        ({"structural_tag": json.dumps({**TAGS, "triggers": ["<z"]})}, "begins with no trigger"),
        ({"structural_tag": json.dumps({**TAGS, "triggers": [""]})}, "list of texts"),
        ({"structural_tag": json.dumps({**TAGS, "structures": [{"begin": "<f"}]})}, "begin, schema and end"),
    ],
)
def test_what_cannot_be_honoured_names_the_field(compiler, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why) as caught:
        compiler.compile(StructuredOutput(**fields, param="response_format"))
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 700


NESTED = {f"d{i}": {"allOf": [{"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 3}] * 3} for i in range(20)}

BOMBS = {
    "divisor": {"json_schema": '{"type": "integer", "multipleOf": 1234567}'},
    "divisors": {
        "json_schema": json.dumps(
            {"allOf": [{"type": "integer", "multipleOf": n} for n in (1009, 1013, 1019)]}
        )
    },
    "hidden divisor": {"grammar": 'start: %json {"type": "integer", "multiple\\u004ff": 1234567}'},
    "references": {"json_schema": json.dumps({"$defs": {**NESTED, "d20": {}}, "$ref": "#/$defs/d0"})},
    "counts": {"regex": "(?:(?:(?:a{0,1000}){0,1000}){0,1000}b){0,1000}"},
    "long text": {"regex": "(a{1000}){1000}"},
    "words": {"regex": "(.*a){200}.{500}"},
    "alternatives": {"regex": "(a|ab|abc|.{0,50}){0,50}"},
    "groups": {"regex": "(?:" * 5000 + "a" + ")" * 5000},
    "gbnf": {"grammar": "root ::= " + "(" * 10000 + '"a"' + ")" * 10000},
    "lark": {"grammar": "start: " + "(" * 10000 + '"a"' + ")" * 10000},
    "optional": {"regex": "(x+x+)+y"},
    "properties": {
        "json_schema": json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(2000)}})
    },
    "large choice": {"json_schema": json.dumps({"enum": [f"value{i:08d}" for i in range(12_000)]})},
    "required": {
        "json_schema": json.dumps(
            {
                "type": "object",
                "properties": {f"p{i}": {"type": "integer"} for i in range(3000)},
                "required": [f"p{i}" for i in range(3000)],
            }
        )
    },
    "union": {
        "json_schema": json.dumps(
            {"anyOf": [{"type": "object", "properties": {"k": {"const": i}, "v": {}}} for i in range(1000)]}
        )
    },
    "classes": {"regex": r"(\w{1,1000} ){1,1000}"},
    "late": {"regex": "(a|b)*a(a|b){300}"},
    "separated": {"regex": "(.*)(a.{0,200}b){5}"},
    "ambiguous": {"grammar": 'start: s\ns: s s s | s s | "x" | "y" |'},
    "intersection": {
        "grammar": "start: A\nA: " + " & ".join(f"/(.*{c}.{{20}}){{3,}}.*/" for c in "abcdefghijkl")
    },
    "complement": {"grammar": "start: A\nA: ~/(.*a.{30}b.*)/ & ~/(.*c.{25}d.*)/ & /.{50,}/"},
}


@pytest.mark.parametrize("fields", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_or_cost_little(compiler, vocabulary, fields: dict[str, Any]) -> None:
    """Processor time, so that a busy machine changes nothing; the bombs would take minutes, or memory."""
    rng = np.random.default_rng(0)
    before = time.process_time()
    try:
        state = start(compiler, **fields)
    except InvalidRequestError:
        pass
    else:
        for _ in range(20):
            if state.finished or state.error is not None:
                break
            consume(state, int(rng.choice(allowed(state))))
    assert time.process_time() - before < 20


def _chain(link: Any, last: Any) -> str:
    definitions = {f"d{i}": link(f"#/$defs/d{i + 1}") for i in range(2500)}
    return json.dumps({"$defs": {**definitions, "d2500": last}, "$ref": "#/$defs/d0"})


OVERFLOWS = {
    "references": {"json_schema": _chain(lambda to: {"$ref": to}, {"type": "null"})},
    "objects": {"json_schema": _chain(lambda to: {"type": "object", "properties": {"a": {"$ref": to}}}, {})},
    "rules": {
        "grammar": "start: r0\n"
        + "\n".join(f"r{i}: r{i + 1} r{i + 1} | r{i + 1}" for i in range(8000))
        + '\nr8000: "x"'
    },
    "optional rules": {
        "grammar": 'start: r0 "x"\n'
        + "\n".join(f"r{i}: r{i + 1}? r{i + 1}?" for i in range(3000))
        + '\nr3000: "x"?'
    },
}


@pytest.mark.parametrize("fields", OVERFLOWS.values(), ids=OVERFLOWS)
def test_what_overflows_the_stack_is_refused(compiler, fields: dict[str, Any]) -> None:
    """The native compiler recurses without a limit, and would take the whole process with it."""
    with pytest.raises(InvalidRequestError, match="takes more than 10 s, or too much memory or nesting"):
        compiler.compile(StructuredOutput(**fields, param="guided_json"))
    assert start(compiler, regex="ab?").error is None


def test_schemas_may_nest_a_good_deal(compiler) -> None:
    definitions = {
        f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(200)
    }
    start(compiler, json_schema=json.dumps({"$defs": {**definitions, "d200": {}}, "$ref": "#/$defs/d0"}))


def test_what_does_not_end_is_ended(vocabulary) -> None:
    """Nothing in the compiler bounds the automaton of these patterns' intersection."""
    compiler = GrammarCompiler(vocabulary, max_seconds=0.5)
    patterns = [{"type": "string", "pattern": f".*a.{{{i}}}b.*"} for i in range(30)]
    bomb = StructuredOutput(json_schema=json.dumps({"allOf": patterns}), param="response_format")
    before = time.process_time()
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match=r"takes more than 0\.5 s") as caught:
            compiler.compile(bomb)
        assert caught.value.param == "response_format"
        compiler.compile(StructuredOutput(regex="ab?"))
    assert time.process_time() - before < 1, "the work was done in this process"


def test_no_process_is_left_behind(vocabulary) -> None:
    compiler = GrammarCompiler(vocabulary)
    compiler.compile(StructuredOutput(regex="ab?"))
    process = compiler._trials._idle[0]._process
    del compiler
    gc.collect()
    assert process.returncode is not None


def test_compiling_in_many_threads(vocabulary) -> None:
    compiler = GrammarCompiler(vocabulary)
    with ThreadPoolExecutor(8) as pool:
        grammars = list(pool.map(lambda i: compiler.compile(StructuredOutput(regex=f"{i}+")), range(64)))
    for i, grammar in enumerate(grammars):
        texts = {vocabulary.tokens[token] for token in allowed(grammar.start(frozenset({EOS}), frozenset()))}
        assert str(i)[:1].encode() in texts
    assert 1 <= len(compiler._trials._idle) <= MAX_PROCESSES


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
