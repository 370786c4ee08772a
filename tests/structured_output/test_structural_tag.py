"""Structural tags: free text and tags of both spellings, as far as they are allowed and no further."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from grammar_walks import EOS, allowed, consume, start

from vllm_jax.errors import InvalidRequestError

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


ANY: dict[str, Any] = {"type": "any_text"}
INT: dict[str, Any] = {"type": "json_schema", "json_schema": {"type": "integer"}}


def tag(**format: Any) -> dict[str, Any]:
    return {"structural_tag": json.dumps({"type": "structural_tag", "format": format})}


def nested_tag(depth: int) -> dict[str, Any]:
    format = INT
    for _ in range(depth):
        format = {"type": "optional", "content": format}
    return tag(**format)


def between(begin: str, content: dict[str, Any], end: str | list[str]) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def const(text: str) -> dict[str, Any]:
    return {"type": "const_string", "value": text}


THINK = {
    "type": "sequence",
    "elements": [
        between("<think>", ANY, "</think>"),
        {
            "type": "triggered_tags",
            "triggers": ["<f="],
            "tags": [between("<f=a>", INT, "</f>"), between("<f=b>", INT, ["</f>", "!"])],
        },
    ],
}
SEVERAL = {
    "type": "sequence",
    "elements": [
        {"type": "repeat", "min": 1, "max": 2, "content": const("ab")},
        {"type": "optional", "content": const("?")},
        {"type": "star", "content": const("c")},
        {"type": "plus", "content": const("d")},
        {"type": "any_text", "excludes": ["no", "!"]},
        const("END"),
        INT,
    ],
}
GRAMMAR_TAGS = {
    "type": "sequence",
    "elements": [
        const("a"),
        {"type": "grammar", "grammar": 'root ::= "x" | "y" root'},
        {"type": "grammar", "grammar": 'start: "k" foo\nfoo: "z"'},
        {"type": "regex", "pattern": r"\d{2}"},
    ],
}
ONE_TAG = {"type": "triggered_tags", "triggers": ["<t"], "tags": [between("<t>", INT, "}")]}
LISTED = {
    "type": "tags_with_separator",
    "tags": [between("<t>", INT, "}"), between("<u>", ANY, "}")],
    "separator": ", ",
}
FORMATS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        THINK,
        ["<think>hm</think>ok <f=a>12</f> and <f=b>4! end", "<think></think>"],
        ["<think>x", "</think>", "<think></think><f=c>", "<think></think><f=a>1!"],
    ),
    (SEVERAL, ["ab?ccdxxEND5", "ababdEND50"], ["abababdEND5", "abEND5", "abdxno END5", "abd!END5", "abdx"]),
    (GRAMMAR_TAGS, ["axkz01", "ayyxkz99"], ["akz01", "axkz0", "ayykz01"]),
    (ONE_TAG, ["x<t>5}y<t>6}", "x", "<"], ["x<t>5y", "<t>"]),
    ({**ONE_TAG, "at_least_one": True}, ["<t>5}y<t>6}", "<t>5}"], ["x<t>5}", ""]),
    ({**ONE_TAG, "stop_after_first": True}, ["x<t>5}", "x"], ["x<t>5}y"]),
    ({**ONE_TAG, "at_least_one": True, "stop_after_first": True}, ["<t>5}"], ["x", "<t>5}x", ""]),
    ({**ONE_TAG, "excludes": ["bad"]}, ["ba<t>5}ba"], ["bad", "<t>5}bad"]),
    (LISTED, ["<t>5}, <u>abc}", "<t>5}", ""], ["<t>5},", "<t>5}<t>5}", "x"]),
    ({**LISTED, "at_least_one": True, "stop_after_first": True}, ["<u>,}"], ["", "<t>5}, <t>5}"]),
    ({"type": "or", "elements": [INT, const("y"), between("(", ANY, ")")]}, ["5", "y", "(n)"], ["n", "("]),
    (const("a<s>b"), ["a<s>b"], ["a<s>", "ab"]),
]  # fmt: skip


@pytest.mark.parametrize(("format", "fitting", "others"), FORMATS)
def test_formats_of_structural_tags(
    compiler, vocabulary, format: dict[str, Any], fitting: list[str], others: list[str]
) -> None:
    def fits(text: str) -> bool:
        state = start(compiler, **tag(**format))
        for token in vocabulary._tokenizer.encode(text, add_special_tokens=False):
            if state.finished or token not in allowed(state):
                return False
            consume(state, token)
        return state.finished or EOS in allowed(state)

    assert [fits(text) for text in fitting] == [True] * len(fitting)
    assert [fits(text) for text in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"structural_tag": "{}"}, "structures and triggers"),
        ({"structural_tag": '{"format": 5}'}, "format must be an object"),
        ({"structural_tag": '{"format": {"type": "token", "token": 1}}'}, "'token' is not supported"),
        ({"structural_tag": '{"format": {"type": "const_string", "valu": "x"}}'}, "'valu' is not known"),
        (tag(type="star", content=ANY), "free text must be the last"),
        (tag(type="sequence", elements=[ANY, INT]), "free text must be the last"),
        (tag(type="any_text", max_tokens=5), "max_tokens is not supported"),
        (tag(type="or", elements=[]), "list that is not empty"),
        (tag(type="tag", begin="x", content=ANY), "end must be a text"),
        (tag(type="json_schema", json_schema={}, style="qwen_xml"), "only style json"),
        (tag(type="repeat", content=INT, min=3, max=2), "min must be"),
        (tag(type="grammar", grammar="whatever"), "neither Lark"),
        (nested_tag(40), "nested at most"),
        ({"structural_tag": '{"structures": [], "triggers": []}'}, "1 to 128"),
        ({"structural_tag": json.dumps({**TAGS, "triggers": ["<z"]})}, "begins with no trigger"),
        ({"structural_tag": json.dumps({**TAGS, "triggers": [""]})}, "list of texts"),
        ({"structural_tag": json.dumps({**TAGS, "structures": [{"begin": "<f"}]})}, "begin, schema and end"),
    ],
)
def test_what_cannot_be_honoured_is_said(compiler, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why) as caught:
        start(compiler, **fields, param="response_format")
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 700
