"""Grammars that would take for ever, all memory or the stack: they cost little, or are refused."""

from __future__ import annotations

import gc
import json
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
import pytest
from grammar_walks import EOS, allowed, consume, start

from vllm_jax.errors import InvalidRequestError, OverloadedError
from vllm_jax.structured_output.compiler import GrammarCompiler
from vllm_jax.structured_output.trials import MAX_PROCESSES
from vllm_jax.structured_output_params import StructuredOutput

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


def endless(letter: str) -> StructuredOutput:
    patterns = [{"type": "string", "pattern": f".*a.{{{i}}}{letter}.*"} for i in range(30)]
    return StructuredOutput(json_schema=json.dumps({"allOf": patterns}))


def test_slow_grammars_keep_nobody_waiting(vocabulary) -> None:
    """Two may take their time; a third is told to come later; quick ones pass all of them."""
    compiler = GrammarCompiler(vocabulary, max_seconds=3)
    compiler.compile(StructuredOutput(regex="ab?"))

    def outcome(letter: str) -> type[Exception]:
        with pytest.raises((InvalidRequestError, OverloadedError)) as caught:
            compiler.compile(endless(letter))
        return caught.type

    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(outcome, letter) for letter in "bcd"]
        busy = next(as_completed(slow))
        assert busy.result() is OverloadedError
        compiler.compile(StructuredOutput(regex="ac?"))
        assert not all(one.done() for one in slow), "it waited for nobody"
        assert [one.result() for one in slow if one is not busy] == [InvalidRequestError] * 2


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
