"""Calls and reasoning in answers, in the formats of the models' cards, and cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.parsers.answer import AnswerParser
from api.parsers.enforced import named_call, required_calls
from api.parsers.events import CallArguments, CallEnd, CallStart, Content, Parser, Reasoning
from api.parsers.harmony import harmony
from api.parsers.reasoning import deepseek_r1, qwen3
from api.parsers.reasoning.thinking import thinking
from api.parsers.registry import TOOL_FORMATS
from api.parsers.source import SourceParser

NAMES: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "exact": {"$ref": "#/$defs/flag"},
            "size": {"type": "number"},
            "tags": {"type": "array"},
            "zip": {"type": ["string", "null"]},
        },
        "$defs": {"flag": {"enum": [True, False]}},
    },
    "get_time": {},
    "f": {"type": "object"},
}

Call = tuple[str, str, bool]
Found = tuple[str, str, list[Call]]
"""Reasoning, content, and the calls: name, arguments, whether they came to their end."""


def make(kind: str) -> Parser:
    if kind in TOOL_FORMATS:
        return AnswerParser([SourceParser(lambda source: TOOL_FORMATS[kind].parse(source, NAMES))])
    if kind == "required":
        return AnswerParser([SourceParser(required_calls(NAMES))])
    if kind == "named":
        return AnswerParser([SourceParser(named_call("f"))])
    if kind == "harmony text":
        return AnswerParser([SourceParser(lambda source: harmony(source, calls=False))])
    if kind == "qwen3 + hermes":
        thoughts = SourceParser(lambda source: thinking(source, qwen3.MARKS, "unsaid"))
        return AnswerParser([thoughts, SourceParser(lambda s: TOOL_FORMATS["hermes"].parse(s, NAMES))])
    family, opening = kind.split(" ")
    marks = {"qwen3": qwen3.MARKS, "deepseek_r1": deepseek_r1.MARKS}[family]
    return AnswerParser([SourceParser(lambda source: thinking(source, marks, opening))])  # type: ignore[arg-type]


def read(kind: str, pieces: Sequence[str]) -> Found:
    parser = make(kind)
    reasoning = content = ""
    calls: list[list[Any]] = []
    ended = True
    for event in [event for piece in pieces for event in parser.feed(piece)] + parser.finish():
        match event:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case CallStart(name):
                assert ended
                calls.append([name, "", None])
                ended = False
            case CallArguments(text):
                assert not ended
                calls[-1][1] += text
            case CallEnd(complete):
                assert not ended
                calls[-1][2] = complete
                ended = True
    assert ended
    return reasoning, content, [tuple(call) for call in calls]


def call(arguments: str, name: str = "get_weather", complete: bool = True) -> Call:
    return name, arguments, complete


ROME = '{"city": "Roma"}'
DEEP = '{"q": "a \\"b\\" {[</tool_call>", "n": [1, {"x": null}], "è": "città 🎉"}'
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
SEP = "<｜tool▁sep｜>"


def hermes(arguments: str, name: str = "get_weather") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def tagged(text: str) -> str:
    return f"<tool_call>{text}</tool_call>"


def llama(arguments: str, name: str = "get_weather") -> str:
    return f'{{"name": "{name}", "parameters": {arguments}}}'


def xml(name: str = "get_weather", **values: str) -> str:
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def calls_of(text: str) -> str:
    return f"<｜tool▁calls▁begin｜>{text}<｜tool▁calls▁end｜>"


# format, answer, content, calls
CALLS: list[tuple[str, str, str, list[Call]]] = [
    ("hermes", "Just text <b> and <tool_cal.", "Just text <b> and <tool_cal.", []),
    ("hermes", " leading and trailing \n", " leading and trailing \n", []),
    ("hermes", hermes(ROME), "", [call(ROME)]),
    ("hermes", hermes(DEEP), "", [call(DEEP)]),
    ("hermes", f"I look.\n\n{hermes(ROME)}\n", "I look.", [call(ROME)]),
    ("hermes", f"{hermes(ROME)}\n{hermes('{}', 'f')}", "", [call(ROME), call("{}", "f")]),
    ("hermes", f"{hermes(ROME)}\nDone. {hermes(ROME)}", "\nDone.", [call(ROME), call(ROME)]),
    ("hermes", tagged('{"arguments": {"a": 1}, "name": "f"}'), "", [call('{"a": 1}', "f")]),
    ("hermes", tagged('{"name": "f"}'), "", [call("{}", "f")]),
    ("hermes", tagged('{"name": "f", "arguments": null}'), "", [call("{}", "f")]),
    ("hermes", tagged('{"name": "f", "arguments": "{\\"a\\": 1}"}'), "", [call('{"a": 1}', "f")]),
    ("hermes", tagged('{"id": 7, "name": "nobody", "arguments": {}}'), "", [call("{}", "nobody")]),
    # slips: a bracket too few, one too many, arguments that are no JSON, an answer that was cut off
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> x', " x", [call('{"a": 1}', "f")]),
    ("hermes", tagged('{"name": "f", "arguments": {"a": 1}}}'), "", [call('{"a": 1}', "f")]),
    ("hermes", tagged('{"name": "f", "arguments": {"a": 1') + "x", "x", [call('{"a": 1', "f", False)]),
    ("hermes", tagged('{"name": "f", "arguments": {"a": <b>}}'), "", [call('{"a": <b>}', "f")]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "b', "", [call('{"a": "b', "f", False)]),
    ("hermes", '<tool_call>{"name": "f", "argu', '<tool_call>{"name": "f", "argu', []),
    ("hermes", tagged('{"name": 5}'), tagged('{"name": 5}'), []),
    ("hermes", tagged('{"name": "\\ud800"}'), tagged('{"name": "\\ud800"}'), []),
    ("hermes", "<tool_call>oh</tool_call> no", "<tool_call>oh</tool_call> no", []),
    ("hermes", f"<tool_call>oh {hermes(ROME)}", "<tool_call>oh", [call(ROME)]),
    ("qwen3_coder", "Just <function and <tool_call>.", "Just <function and <tool_call>.", []),
    ("qwen3_coder", f"Look.\n{xml(city='Roma')}", "Look.", [call(ROME)]),
    ("qwen3_coder", xml(city="Roma").removeprefix("<tool_call>\n"), "", [call(ROME)]),
    ("qwen3_coder", f"{xml(city='Roma')}\n{xml('f')} x", " x", [call(ROME), call("{}", "f")]),
    ("qwen3_coder", xml(city="3", days="3"), "", [call('{"city": "3", "days": 3}')]),
    ("qwen3_coder", xml(zip="007", days="null"), "", [call('{"zip": "007", "days": null}')]),
    ("qwen3_coder", xml(zip="null", exact="True"), "", [call('{"zip": null, "exact": true}')]),
    ("qwen3_coder", xml(size="2", tags='["è", 1]'), "", [call('{"size": 2, "tags": ["è", 1]}')]),
    ("qwen3_coder", xml(days="many"), "", [call('{"days": "many"}')]),
    ("qwen3_coder", xml(city='a\n"b" <c> </d>\n'), "", [call(json.dumps({"city": 'a\n"b" <c> </d>\n'}))]),
    ("qwen3_coder", xml("f", a="5", b="{}", c="x"), "", [call('{"a": "5", "b": {}, "c": "x"}', "f")]),
    ("qwen3_coder", xml(city="Roma")[:-24], "", [call('{"city": "Roma"', complete=False)]),
    ("qwen3_coder", xml(city="Roma")[:50], "", [call("", complete=False)]),
    ("qwen3_coder", "<tool_call>\n<function=f>oh</tool_call> x", "x", [call("", "f", False)]),
    ("qwen3_coder", "<tool_call>\n<function=>", "<tool_call>\n<function=>", []),
    ("json", '{"answer": [1, 2]}', '{"answer": [1, 2]}', []),
    ("json", '{"name": "Ada", "arguments": 3}', '{"name": "Ada", "arguments": 3}', []),
    ("json", '{"name": "f", "age": 3}', '{"name": "f", "age": 3}', []),
    ("json", "", "", []),
    ("json", "  ", "  ", []),
    ("json", f" [{llama(ROME)}, {llama('{}', 'f')}] ", "", [call(ROME), call("{}", "f")]),
    ("json", f"```json\n[{llama(ROME)}]\n```\nThat is it.", "\nThat is it.", [call(ROME)]),
    ("json", "```json\n{}\n```", "```json\n{}\n```", []),
    ("json", f"{llama(ROME)} and more", " and more", [call(ROME)]),
    ("json", f"[{llama(ROME)}, 5]", ", 5]", [call(ROME)]),
    ("llama3_json", f"<|python_tag|>{llama(ROME)}; {llama(ROME)}", "", [call(ROME), call(ROME)]),
    ("llama3_json", f'{{"type": "function", {llama(ROME)[1:]}', "", [call(ROME)]),
    ("llama3_json", "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    ("llama3_json", llama(ROME, "unknown"), llama(ROME, "unknown"), []),
    ("mistral", f'Yes. [TOOL_CALLS] [{{"name": "f", "arguments": {DEEP}}}]', "Yes.", [call(DEEP, "f")]),
    ("mistral", f"[TOOL_CALLS]f{ROME}[TOOL_CALLS]f[ARGS]{ROME}", "", [call(ROME, "f")] * 2),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{DEEP}", "", [call(DEEP)]),
    ("mistral", "[TOOL_CALLS]", "[TOOL_CALLS]", []),
    ("mistral", "[TOOL_CALLS] [1, 2]", "[TOOL_CALLS] [1, 2]", []),
    ("mistral", "[TOOL_CALLS]" + "x" * 300 + "{}", "[TOOL_CALLS]" + "x" * 300 + "{}", []),
    ("deepseek", "So: " + calls_of(V3.replace("{}", "f", 1).replace("{}", ROME)), "So:", [call(ROME, "f")]),
    (
        "deepseek",
        calls_of(V31.format("f", DEEP) + "\n" + V31.format("f", ROME)),
        "",
        [call(DEEP, "f"), call(ROME, "f")],
    ),
    ("deepseek", calls_of(V31.format("f", '{"a": 1')), "", [call('{"a": 1', "f", False)]),
    ("deepseek", f"<｜tool▁call▁begin｜>f{SEP}no JSON", f"<｜tool▁call▁begin｜>f{SEP}no JSON", []),
    ("pythonic", "[get_weather(city='Roma')]", "", [call(ROME)]),
    ("pythonic", " [ get_weather( city = 'Roma' , ) , f() ] ", "", [call(ROME), call("{}", "f")]),
    (
        "pythonic",
        "[f(a=-1.5, b=[True, None, ('x', \"]\")], c={'k': '\\')'}, d=\"\"\"è\"\"\", e=false)]",
        "",
        [call('{"a": -1.5, "b": [true, null, ["x", "]"]], "c": {"k": "\')"}, "d": "è", "e": false}', "f")],
    ),
    ("pythonic", "<|python_start|>[f(x=1)]<|python_end|>", "", [call('{"x": 1}', "f")]),
    ("pythonic", "[f(x=1)] so", " so", [call('{"x": 1}', "f")]),
    ("pythonic", "[f(x=1), f(x=__import__('os'))]", ", f(x=__import__('os'))]", [call('{"x": 1}', "f")]),
    *(
        ("pythonic", text, text, [])
        for text in (
            "[1, 2]",
            "[unknown(x=1)]",
            "[f(1)]",
            "[f(**{'a': 1})]",
            "[f(x=open('/etc/passwd').read())]",
            "[f(x=().__class__)]",
            "[f(x=1e999)]",
            "[f(x=b'')]",
            "[f(x=1j)]",
            "[f(x={1: 2})]",
            "[f(x='\\ud800')]",
            "[f(x=f'{1}')]",
            "[f(x=1",
            "[f(x=" + "[" * 100 + "]" * 100 + ")]",
            "[f(x=" + "9" * 5000 + ")]",
            "[f(x=" + "-" * 5000 + "1)]",
        )
    ),
    (
        "openai",
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>" + DEEP + "<|call|>",
        "",
        [call(DEEP, "f")],
    ),
    ("openai", "No format at all.", "No format at all.", []),
    ("openai", "a <|message|> b", "a <|message|> b", []),
    ("required", f'[{llama(ROME)},{llama("{}", "f")}]', "", [call(ROME), call("{}", "f")]),
    ("required", '[{"name":"get_we', "", []),
    ("required", '[{"name":"f","parameters":{"a":', "", [call('{"a":', "f", False)]),
    ("named", ROME, "", [call(ROME, "f")]),
    ("named", '{"a":', "", [call('{"a":', "f", False)]),
    ("named", "", "", []),
]  # fmt: skip

HARMONY = [
    (
        "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>Ciao<|return|>",
        ("Think.", "Ciao", []),
    ),
    (
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary<|message|>I look."
        "<|end|><|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
        + ROME
        + "<|call|><|start|>assistant<|channel|>commentary to=functions.f json<|message|>{}<|call|>",
        ("Hm", "I look.", [call(ROME), call("{}", "f")]),
    ),
    ("<|channel|>analysis<|message|>Th", ("Th", "", [])),
    ("<|channel|>analysis<|message|>Th<|end|><|start|>assistant<|chan", ("Th", "", [])),
    ('<|channel|>commentary to=functions.f<|message|>{"a', ("", "", [call('{"a', "f", False)])),
]

REASONING: list[tuple[str, str, Found]] = [
    ("qwen3 unsaid", "<think>\nHm.\n</think>\n\nCiao", ("Hm.", "Ciao", [])),
    ("qwen3 unsaid", " Ciao <think>x</think>", ("", " Ciao <think>x</think>", [])),
    ("qwen3 unsaid", "<think>\n\n</think>\n\nCiao", ("", "Ciao", [])),
    ("qwen3 unsaid", "<think>a </thin", ("a </thin", "", [])),
    ("qwen3 open", "a\n\nb\n</think>c", ("a\n\nb", "c", [])),
    ("qwen3 closed", "a </think> b", ("", "a </think> b", [])),
    ("deepseek_r1 open", "<think>\na</think>b", ("a", "b", [])),
    ("deepseek_r1 open", "never ends ", ("never ends", "", [])),
    (
        "qwen3 + hermes",
        f"<think>I need <tool_call></think>\n\nWait.\n{hermes(ROME)}",
        ("I need <tool_call>", "Wait.", [call(ROME)]),
    ),
]

ALL = [
    *((kind, text, ("", content, calls)) for kind, text, content, calls in CALLS),
    *(("openai", text, found) for text, found in HARMONY),
    *REASONING,
]


@pytest.mark.parametrize(("kind", "text", "found"), ALL, ids=[f"{k}: {t[:40]!a}" for k, t, _ in ALL])
def test_whole_and_character_by_character(kind: str, text: str, found: Found) -> None:
    assert read(kind, [text]) == found
    assert read(kind, list(text)) == found
    for name, arguments, complete in found[2]:
        assert name
        if complete and "<b>" not in arguments:
            assert isinstance(json.loads(arguments), dict)


FRAGMENTS = {
    "hermes": ["<tool_call>", "</tool_call>", hermes(ROME), hermes(DEEP, "f"), "<tool_", "\n", '"', "}"],
    "qwen3_coder": [
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "f>",
        "</function>",
        "<parameter=a>",
        "</parameter>",
        xml(city="Roma"),
        xml("f")[:-20],
        "\n",
        "<",
    ],
    "json": ["```json", "```", llama(ROME), "[", "]", ",", ";", '{"name": "', '"f"', " "],
    "llama3_json": ["<|python_tag|>", llama(DEEP), llama(ROME, "nobody"), ";", "{", "}", '"'],
    "mistral": ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "f", ROME, f"[{llama(ROME)}]", "[TOOL", " "],
    "deepseek": [
        calls_of(V31.format("f", ROME)),
        "<｜tool▁call▁begin｜>",
        "function",
        SEP,
        "f\n",
        "```json\n",
        ROME,
        "\n```",
        "<｜tool▁call▁end｜>",
    ],
    "pythonic": [
        "[",
        "]",
        "f(",
        ")",
        "x=1",
        ",",
        "'",
        "(",
        "<|python_start|>",
        "get_time(z={'a': [1]})",
        " ",
    ],
    "openai": [
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|end|>",
        "<|call|>",
        "analysis",
        "commentary",
        " to=functions.f",
        ROME,
        "assistant",
    ],
    "qwen3 unsaid": ["<think>", "</think>", "\n", "a", "</th", "<"],
    "qwen3 + hermes": ["<think>", "</think>", "\n", "a", hermes(ROME), "<tool_call>", "</tool_call>"],
    "deepseek_r1 open": ["<think>", "</think>", " ", "b", "</"],
    "required": ["[", "]", llama(ROME), ",", '{"name"', ":", '"f"', '"parameters"', "{", "}"],
    "named": ["{", "}", '"a"', ":", "1", " ", "\\", '"'],
}


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_no_split_changes_what_is_found(kind: str) -> None:
    text = st.lists(st.sampled_from(FRAGMENTS[kind]) | st.text(max_size=3), max_size=10).map("".join)

    @settings(max_examples=150, deadline=None)
    @given(text, st.data())
    def check(text: str, data: st.DataObject) -> None:
        whole = read(kind, [text])
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert read(kind, pieces) == whole
        assert read(kind, list(text)) == whole

    check()


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_long_answers_take_time_in_proportion(kind: str) -> None:
    """100 kB of the worst fragments are read before the test's time limit, which a square would not be."""
    for fragment in FRAGMENTS[kind]:
        text = fragment * (100_000 // len(fragment))
        assert read(kind, [text]) == read(kind, [text[i : i + 64] for i in range(0, len(text), 64)])
