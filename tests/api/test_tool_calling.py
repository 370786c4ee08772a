"""Tools over HTTP: a real server with a model that says what it is told, and the clients people use."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from server_process import Server
from sse_reader import read_events, texts

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Roma"}}\n</tool_call>'
TWO = (
    "<think>\nRome, then Milan.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
    '<tool_call>\n{"arguments": {"city": "Milan", "days": 3}, "name": "get_weather"}\n</tool_call>'
)
SCRIPTS = {
    "weather": CALL,
    "two": TWO,
    "plain": "There is nothing to call.",
    "done": "It is sunny in Roma.",
    "broken": '<tool_call>\n{"name": "get_weather" oh no}\n</tool_call> Sorry.',
    "<think>": "Deep. </think> Shallow.",
    "</think>": "No thought, even if it says </think> once more.",
    "cut": '<tool_call> {"name": "get_weather", "arguments": {"city": "a very very long name" } }',
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
ASK = [{"role": "user", "content": "How is the weather in Rome?"}]


@pytest.fixture(scope="module")
def client(scripted: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="EMPTY", max_retries=0)


def langchain(scripted: Server, script: str, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="tiny",
        base_url=f"{scripted.url}/v1",
        api_key="EMPTY",
        max_retries=0,
        extra_body={"chat_template_kwargs": {"script": script}},
        **settings,
    )


def body(script: str, **more: Any) -> dict[str, Any]:
    kwargs = {"script": script, **more.pop("chat_template_kwargs", {})}
    return {"messages": ASK, "tools": [WEATHER], "chat_template_kwargs": kwargs, **more}


def ask(http: httpx.Client, script: str, status: int = 200, **more: Any) -> dict[str, Any]:
    response = http.post("/v1/chat/completions", json=body(script, **more))
    assert response.status_code == status, response.text
    return response.json()["choices"][0] if status == 200 else response.json()["error"]


def stream(http: httpx.Client, script: str, **more: Any) -> list[dict[str, Any]]:
    response = http.post("/v1/chat/completions", json=body(script, stream=True, **more))
    assert response.status_code == 200, response.text
    return read_events(response.text)


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = message["tool_calls"]
    assert all(call["type"] == "function" and call["id"] for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def test_one_call(http: httpx.Client) -> None:
    choice = ask(http, "weather")
    assert choice["finish_reason"] == "tool_calls" and choice["stop_reason"] is None
    message = choice["message"]
    assert message["content"] is None and message["reasoning"] is None
    assert calls_of(message) == [("get_weather", {"city": "Roma"})]
    assert message["tool_calls"][0]["id"].startswith("call_")


def test_reasoning_text_and_two_calls(http: httpx.Client) -> None:
    message = ask(http, "two")["message"]
    assert message["reasoning"] == message["reasoning_content"] == "Rome, then Milan."
    assert message["content"] == "I look."
    both = [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Milan", "days": 3})]
    assert calls_of(message) == both
    assert calls_of(ask(http, "two", parallel_tool_calls=False)["message"]) == both[:1]
    hidden = ask(http, "two", include_reasoning=False)["message"]
    assert hidden["reasoning"] is None and hidden["content"] == "I look."


def test_reasoning_tokens_are_counted(http: httpx.Client) -> None:
    def usage(**more: Any) -> tuple[int, list[int]]:
        answer = http.post("/v1/chat/completions", json=body("two", return_token_ids=True, **more)).json()
        return answer["usage"]["completion_tokens_details"]["reasoning_tokens"], answer["choices"][0][
            "token_ids"
        ]

    count, ids = usage()
    spelled = [http.post("/detokenize", json={"tokens": ids[:i]}).json()["prompt"] for i in range(len(ids))]
    opened = next(i for i, text in enumerate(spelled) if "<think>" in text)
    closed = next(i for i, text in enumerate(spelled) if "</think>" in text)
    assert count == closed - opened - 1 > 3
    assert usage(reasoning_effort="none")[0] == 0
    streamed = stream(http, "two", stream_options={"include_usage": True})[-1]["usage"]
    assert streamed["completion_tokens_details"]["reasoning_tokens"] == count


def test_the_prompt_may_open_or_close_the_reasoning(http: httpx.Client) -> None:
    opened = ask(http, "", chat_template_kwargs={"enable_thinking": True})["message"]
    assert (opened["reasoning"], opened["content"]) == ("Deep.", "Shallow.")
    closed = ask(http, "", reasoning_effort="none")["message"]
    assert (closed["reasoning"], closed["content"]) == (None, SCRIPTS["</think>"])


def test_text_without_calls(http: httpx.Client) -> None:
    choice = ask(http, "plain")
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == SCRIPTS["plain"]
    assert "tool_calls" not in choice["message"]
    broken = ask(http, "broken")
    assert broken["message"]["content"] == SCRIPTS["broken"] and "tool_calls" not in broken["message"]


def test_no_tools_or_no_choice_leave_the_text_alone(http: httpx.Client) -> None:
    for more in ({"tool_choice": "none"}, {"tools": None}):
        choice = ask(http, "weather", skip_special_tokens=False, **more)
        assert choice["message"]["content"] == CALL and choice["finish_reason"] == "stop"
    # A mark that the vocabulary has as a special token is only shown where it is read.
    bare = ask(http, "weather", tool_choice="none")["message"]["content"]
    assert bare == CALL.replace("<tool_call>", "")


def test_a_call_that_was_cut_off_is_its_beginning(http: httpx.Client) -> None:
    """As with OpenAI: arguments as far as they were written, and the reason "length"."""
    whole_text = SCRIPTS["cut"].partition('"arguments": ')[2]
    choice = ask(http, "cut", max_tokens=14)
    assert choice["finish_reason"] == "length" and choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    arguments = call["function"]["arguments"]
    assert call["function"]["name"] == "get_weather"
    assert whole_text.startswith(arguments) and 2 < len(arguments) < len(whole_text) - 12
    choices = [choice for event in stream(http, "cut", max_tokens=14) for choice in event["choices"]]
    pieces = [call["function"] for c in choices for call in c["delta"].get("tool_calls", [])]
    assert "".join(piece.get("arguments", "") for piece in pieces) == arguments
    assert choices[-1]["finish_reason"] == "length"
    early = ask(http, "cut", max_tokens=4)
    assert early["finish_reason"] == "length" and "tool_calls" not in early["message"]


def test_stream_says_the_same(http: httpx.Client) -> None:
    for script in (name for name in SCRIPTS if "<" not in name):
        whole = ask(http, script)
        chunks = stream(http, script, stream_options={"include_usage": True})
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
        deltas = [chunk["choices"][0] for chunk in chunks[:-1]]
        assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
        assert texts(chunks)[0] == (whole["message"]["content"] or "")
        thoughts = "".join(d["delta"].get("reasoning", "") for d in deltas)
        assert thoughts == (whole["message"]["reasoning"] or "")
        calls: list[dict[str, Any]] = []
        for piece in (piece for d in deltas for piece in d["delta"].get("tool_calls", [])):
            if piece["index"] == len(calls):
                assert piece["id"] and piece["type"] == "function" and piece["function"]["name"]
                calls.append(piece["function"])
            else:
                assert piece["index"] == len(calls) - 1 and piece.keys() == {"index", "function"}
                assert piece["function"].keys() == {"arguments"}
                calls[-1]["arguments"] += piece["function"]["arguments"]
        assert calls == [call["function"] for call in whole["message"].get("tool_calls", [])]
        assert [d["finish_reason"] for d in deltas if d["finish_reason"]] == [whole["finish_reason"]]
        assert "finish_reason" in deltas[-1]


def test_an_event_says_something_and_speaks_of_one_call(http: httpx.Client) -> None:
    asked = {"logprobs": True, "return_token_ids": True, "seed": 1}
    whole = ask(http, "two", **asked)
    head, *deltas = [chunk["choices"][0] for chunk in stream(http, "two", **asked)]
    assert head["delta"]["role"] == "assistant"
    for delta in deltas:
        said = delta["delta"]
        assert said or (delta is deltas[-1] and delta["finish_reason"])
        assert len(said.get("tool_calls", [])) <= 1 and len({*said} - {"reasoning_content"}) <= 1
        for call in said.get("tool_calls", []):
            assert ("name" in call["function"]) == (call["function"]["arguments"] == "") == ("id" in call)
    ids = [token for delta in deltas for token in delta.get("token_ids", [])]
    logprobs = [entry for delta in deltas if delta["logprobs"] for entry in delta["logprobs"]["content"]]
    assert ids == whole["token_ids"] and len(logprobs) == len(ids)
    assert [delta["finish_reason"] for delta in deltas] == [None] * (len(deltas) - 1) + ["tool_calls"]


def test_arguments_are_streamed_while_they_are_written(http: httpx.Client) -> None:
    def num_pieces() -> int:
        return sum("tool_calls" in c["choices"][0]["delta"] for c in stream(http, "weather"))

    # A reader that falls behind gets several tokens in one chunk: on a busy machine a stream may have two.
    assert any(num_pieces() >= 3 for _ in range(20))


def test_several_answers_and_logprobs(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", json=body("weather", n=3, logprobs=True, seed=1))
    choices = response.json()["choices"]
    assert [calls_of(c["message"]) for c in choices] == [[("get_weather", {"city": "Roma"})]] * 3
    assert len({c["message"]["tool_calls"][0]["id"] for c in choices}) == 3
    spelled = "".join(entry["token"] for entry in choices[0]["logprobs"]["content"])
    assert "get_weather" in spelled
    spelled_by = ["", ""]
    for chunk in stream(http, "weather", n=2, logprobs=True):
        [part] = chunk["choices"]
        for entry in (part["logprobs"] or {"content": []})["content"]:
            spelled_by[part["index"]] += entry["token"]
    assert spelled_by == [spelled, spelled]


MILANO = {
    "type": "object",
    "properties": {"city": {"const": "Milano"}},
    "required": ["city"],
    "additionalProperties": False,
}


def strict(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "get_weather", "parameters": parameters, "strict": True}}


def test_strict_tools_are_enforced_where_the_model_calls_them(http: httpx.Client) -> None:
    """The model would say Roma. Its mark of a call is a special token here."""
    tools, one = [strict(MILANO)], {"parallel_tool_calls": False}
    choice = ask(http, "weather", tools=tools, **one)
    assert calls_of(choice["message"]) == [("get_weather", {"city": "Milano"})]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    events = stream(http, "weather", tools=tools, **one)
    deltas = [call for e in events for c in e["choices"] for call in c["delta"].get("tool_calls", [])]
    assert json.loads("".join(call["function"].get("arguments", "") for call in deltas)) == {"city": "Milano"}
    assert ask(http, "plain", tools=tools)["message"]["content"] == SCRIPTS["plain"]
    assert calls_of(ask(http, "weather", tools=[strict(WEATHER["function"]["parameters"])])["message"]) == [
        ("get_weather", {"city": "Roma"})
    ]
    thinking = ask(http, "two", tools=tools, max_tokens=200, **one)["message"]
    assert thinking["reasoning"] == "Rome, then Milan." and thinking["content"] == "I look."
    assert calls_of(thinking) == [("get_weather", {"city": "Milano"})]


def test_strict_tools_whose_schema_cannot_be_enforced_are_refused(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    error = ask(http, "plain", 400, tools=[strict(schema)])
    assert error["param"] == "tools" and "uniqueItems" in error["message"]


def test_deprecated_functions(http: httpx.Client) -> None:
    old = {"tools": None, "functions": [WEATHER["function"]]}
    choice = ask(http, "two", **old)
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]
    assert choice["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    pieces = [c["choices"][0]["delta"].get("function_call", {}) for c in stream(http, "two", **old)]
    assert "".join(p.get("name") or "" for p in pieces) == "get_weather"
    assert "".join(p.get("arguments") or "" for p in pieces) == '{"city": "Rome"}'
    assert ask(http, "plain", **old)["finish_reason"] == "stop"
    history = [
        *ASK,
        {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": "{}"}},
        {"role": "function", "name": "get_weather", "content": "sunny"},
    ]
    assert ask(http, "two", messages=history, **old)["message"]["content"] == SCRIPTS["done"]


BAD: list[tuple[str, dict[str, Any]]] = [
    ("tools", {"tools": []}),
    ("tools", {"tools": [{"type": "web_search"}]}),
    ("tools", {"tools": [{"type": "function"}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": ""}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "x" * 65}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "description": 1}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]}),
    ("tools", {"tools": [WEATHER, WEATHER]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * (1 << 20)}}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(2000)]}),
    ("tools", {"tools": "get_weather"}),
    ("tool_choice", {"tools": None, "tool_choice": "auto"}),
    ("tool_choice", {"tools": None, "tool_choice": "required"}),
    ("tool_choice", {"tool_choice": "sometimes"}),
    ("tool_choice", {"tool_choice": {}}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {}}}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "nobody"}}}),
    ("tool_choice", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}}),
    ("tools", {"use_beam_search": True, "n": 2}),
    ("functions", {"functions": [WEATHER["function"]]}),
    ("functions", {"tools": None, "functions": []}),
    ("function_call", {"tools": None, "function_call": "auto"}),
    ("function_call", {"tools": None, "functions": [WEATHER["function"]], "function_call": {"name": "f"}}),
    ("messages", {"messages": [*ASK, {"role": "assistant", "tool_calls": [{"function": {}}]}]}),
    ("messages", {"messages": [*ASK, {"role": "assistant", "function_call": "f"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("param", "more"), BAD)
def test_what_cannot_be_honoured_is_named(http: httpx.Client, param: str, more: dict[str, Any]) -> None:
    error = ask(http, "plain", 400, **more)
    assert error["param"] == param and len(error["message"]) < 2000


def test_completions_have_no_tools(http: httpx.Client) -> None:
    refused = {"prompt": "x", "max_tokens": 1, "tools": [WEATHER]}
    assert http.post("/v1/completions", json=refused).json()["error"]["param"] == "tools"
    assert http.post("/v1/completions", json={**refused, "tools": None}).status_code == 200


def test_allowed_tools_keep_the_others_from_the_model(http: httpx.Client) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    more = {"tools": [WEATHER, other], "tool_choice": choice, "return_token_ids": True}

    def prompt(**more: Any) -> list[int]:
        return http.post("/v1/chat/completions", json=body("weather", **more)).json()["prompt_token_ids"]

    assert prompt(**more) == prompt(return_token_ids=True) != prompt(**more | {"tool_choice": "auto"})
    tokens = http.post("/tokenize", json=body("weather")).json()["tokens"]
    assert tokens == prompt(return_token_ids=True)


def test_openai_client(client: openai.OpenAI) -> None:
    extra = {"chat_template_kwargs": {"script": "two"}}
    with client.chat.completions.stream(
        model="tiny", messages=ASK, tools=[WEATHER], extra_body=extra
    ) as events:
        seen = [event.type for event in events]
        final = events.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.done" in seen and final.finish_reason == "tool_calls"
    assert [c.function.arguments for c in final.message.tool_calls or []] == [
        '{"city": "Rome"}',
        '{"city": "Milan", "days": 3}',
    ]
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    parsed = client.chat.completions.parse(
        model="tiny",
        messages=ASK,
        tools=[strict],
        extra_body={"chat_template_kwargs": {"script": "weather"}},
    )
    [call] = parsed.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == {"city": "Roma"}


@tool
def get_weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"sunny in {city} for {days} days"


def test_langchain_agent_round_trip(scripted: Server) -> None:
    model = langchain(scripted, "two").bind_tools([get_weather])
    messages: list[Any] = [HumanMessage("How is the weather?")]
    answer = model.invoke(messages)
    assert isinstance(answer, AIMessage) and answer.content == "I look."
    assert [call["args"] for call in answer.tool_calls] == [{"city": "Rome"}, {"city": "Milan", "days": 3}]
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    messages.append(answer)
    for call in answer.tool_calls:
        result = get_weather.invoke(call)
        assert isinstance(result, ToolMessage)
        messages.append(result)
    final = model.invoke(messages)
    assert final.content == SCRIPTS["done"] and not final.tool_calls


def test_langchain_stream(scripted: Server) -> None:
    chunks = list(langchain(scripted, "two").bind_tools([get_weather]).stream("How is the weather?"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert [call["args"] for call in total.tool_calls] == [{"city": "Rome"}, {"city": "Milan", "days": 3}]  # type: ignore[attr-defined]
    assert not total.invalid_tool_calls  # type: ignore[attr-defined]
