"""Tools, reasoning and structured text at /v1/responses and /v1/messages, from a scripted model."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from server_process import Server

TWO = (
    "<think>\nRome, then Milan.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
    '<tool_call>\n{"arguments": {"city": "Milan", "days": 3}, "name": "get_weather"}\n</tool_call>'
)
LONG = '<tool_call> {"name": "get_weather", "arguments": {"days": 4, "city": "a very long name" } }'
SCRIPTS = {
    "long": LONG,
    "weather": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Roma"}}\n</tool_call>',
    "two": TWO,
    "plain": "There is nothing to call.",
    "done": "It is sunny in Roma.",
}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
FLAT = {"type": "function", "name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}
SWITCH: dict[str, Any] = {
    "type": "function",
    "name": "switch",
    "parameters": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}},
        "required": ["on"],
        "additionalProperties": False,
    },
}
THEIRS = {"name": "get_weather", "description": "Weather.", "input_schema": PARAMETERS}
NO_THOUGHT = {"chat_template_kwargs": {"enable_thinking": False}}
ASK: list[Any] = [{"role": "user", "content": "How is the weather in Rome?"}]


@pytest.fixture(scope="module")
def client(scripted: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="EMPTY", max_retries=0)


@pytest.fixture(scope="module")
def claude(scripted: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=scripted.url, api_key="EMPTY", max_retries=0)


def says(script: str) -> dict[str, Any]:
    return {"extra_body": {"chat_template_kwargs": {"script": script}, "temperature": 0}}


def shown(items: list[Any]) -> list[tuple[Any, ...]]:
    """The items of a response, ids apart."""
    found: list[tuple[Any, ...]] = []
    for item in items:
        if item.type == "function_call":
            found.append(("call", item.name, json.loads(item.arguments), item.status))
        else:
            found.append((item.type, item.content[0].text.strip(), item.status))
    return found


def test_a_call_that_was_cut_off_is_the_same_whole_and_streamed(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "tools": [THEIRS], "max_tokens": 18}
    whole = claude.messages.create(**asked, **says("long"))
    with claude.messages.stream(**asked, **says("long")) as stream:
        streamed = stream.get_final_message()
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"
    [block], [same] = whole.content, streamed.content
    assert block.type == same.type == "tool_use"
    assert block.name == same.name == "get_weather" and block.input == same.input
    [item] = client.responses.create(
        model="tiny", input=ASK, tools=[FLAT], max_output_tokens=18, **says("long")
    ).output
    assert item.type == "function_call" and item.status == "incomplete"
    assert LONG.partition('"arguments": ')[2].startswith(item.arguments) and len(item.arguments) > 2


def test_an_enforced_call_that_was_cut_off_is_none(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    """The one way in which a whole answer differs from a stream, which cannot take back what it has sent."""
    quiet = {"extra_body": {**NO_THOUGHT, "temperature": 0}}
    theirs: dict[str, Any] = {"model": "tiny", "messages": ASK, "tools": [THEIRS], "max_tokens": 2}
    theirs["tool_choice"] = {"type": "tool", "name": "get_weather"}
    whole = claude.messages.create(**theirs, **quiet)
    assert whole.content == [] and whole.stop_reason == "max_tokens"
    with claude.messages.stream(**theirs, **quiet) as stream:
        [block] = stream.get_final_message().content
    assert block.type == "tool_use" and block.name == "get_weather"
    ours: dict[str, Any] = {"model": "tiny", "input": ASK, "tools": [SWITCH], "max_output_tokens": 2}
    ours["tool_choice"] = {"type": "function", "name": "switch"}
    answer = client.responses.create(**ours, **quiet)
    assert answer.output == [] and answer.status == "incomplete"
    *_, last = client.responses.create(**ours, **quiet, stream=True)
    assert [(item.type, item.status) for item in last.response.output] == [("function_call", "incomplete")]


EXPECTED = [
    ("reasoning", "Rome, then Milan.", "completed"),
    ("message", "I look.", "completed"),
    ("call", "get_weather", {"city": "Rome"}, "completed"),
    ("call", "get_weather", {"city": "Milan", "days": 3}, "completed"),
]


def test_items_of_a_response(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="tiny", input=ASK, tools=[FLAT], **says("two"))
    assert shown(whole.output) == EXPECTED and whole.status == "completed"
    calls = [item for item in whole.output if item.type == "function_call"]
    assert len({call.call_id for call in calls}) == 2
    assert whole.usage and whole.usage.output_tokens_details.reasoning_tokens > 0
    with client.responses.stream(model="tiny", input=ASK, tools=[FLAT], **says("two")) as stream:
        events = list(stream)
    final = events[-1].response
    assert shown(final.output) == EXPECTED
    pieces: dict[int, str] = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            pieces[event.output_index] = pieces.get(event.output_index, "") + event.delta
    assert [json.loads(text) for text in pieces.values()] == [{"city": "Rome"}, {"city": "Milan", "days": 3}]
    assert (
        "".join(e.delta for e in events if e.type == "response.reasoning_text.delta").strip()
        == EXPECTED[0][1]
    )


def test_results_of_tools_come_back(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input=ASK, tools=[FLAT], **says("weather"))
    [call] = [item for item in first.output if item.type == "function_call"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(
        model="tiny", input=[result], previous_response_id=first.id, tools=[FLAT], temperature=0
    )
    assert second.output_text == "It is sunny in Roma."


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_enforced_calls(client: openai.OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "input": ASK, "tools": [SWITCH], "tool_choice": choice}
    if isinstance(choice, dict):
        asked["tool_choice"] = {**choice, "name": "switch"}
    answer = client.responses.create(**asked, max_output_tokens=150, temperature=0, extra_body=NO_THOUGHT)
    whole = [item for item in answer.output if item.type == "function_call" and item.status == "completed"]
    assert whole and all(call.name == "switch" for call in whole)  # a random model may call without end
    assert all(isinstance(json.loads(call.arguments)["on"], bool) for call in whole)


def test_structured_text(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    format = {"type": "json_schema", "name": "switch", "schema": SWITCH["parameters"], "strict": True}
    asked: dict[str, Any] = {"model": "tiny", "input": ASK, "text": {"format": format}, "temperature": 0}
    answer = client.responses.create(**asked, max_output_tokens=150, extra_body=NO_THOUGHT)
    assert answer.status == "completed" and isinstance(json.loads(answer.output_text)["on"], bool)
    output = {"format": {"type": "json_schema", "schema": SWITCH["parameters"]}}
    message = claude.messages.create(
        model="tiny",
        messages=ASK,
        max_tokens=150,
        thinking={"type": "disabled"},
        extra_body={"output_config": output, "temperature": 0},
    )
    [block] = [block for block in message.content if block.type == "text"]
    assert isinstance(json.loads(block.text)["on"], bool)


def test_blocks_of_a_message(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "max_tokens": 200,
        "messages": ASK,
        "tools": [THEIRS],
        **says("two"),
    }
    whole = claude.messages.create(**asked)
    kinds = [block.type for block in whole.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"] and whole.stop_reason == "tool_use"
    thinking, text, first, second = whole.content
    assert thinking.thinking.strip() == "Rome, then Milan." and text.text.strip() == "I look."
    assert (first.name, first.input, second.input) == (
        "get_weather",
        {"city": "Rome"},
        {"city": "Milan", "days": 3},
    )
    with claude.messages.stream(**asked) as stream:
        for _ in stream:
            pass
        final = stream.get_final_message()
    assert [block.type for block in final.content] == kinds and final.stop_reason == "tool_use"
    assert [block.input for block in final.content if block.type == "tool_use"] == [first.input, second.input]
    history = [
        *ASK,
        {"role": "assistant", "content": [block.model_dump() for block in whole.content]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
                for block in (first, second)
            ],
        },
    ]
    answer = claude.messages.create(
        model="tiny", max_tokens=50, messages=history, tools=[THEIRS], extra_body={"temperature": 0}
    )
    assert answer.stop_reason == "end_turn" and answer.content[0].text == "It is sunny in Roma."


def test_one_call_at_most(claude: anthropic.Anthropic) -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    answer = claude.messages.create(
        model="tiny", max_tokens=200, messages=ASK, tools=[THEIRS], tool_choice=choice, **says("two")
    )
    assert [block.type for block in answer.content].count("tool_use") == 1


def test_langchain_calls_tools_by_responses(scripted: Server) -> None:
    @tool
    def get_weather(city: str, days: int = 1) -> str:
        """The weather of a city."""
        return "sunny"

    llm = ChatOpenAI(
        model="tiny",
        base_url=f"{scripted.url}/v1",
        api_key="EMPTY",
        max_retries=0,
        temperature=0,
        use_responses_api=True,
        extra_body={"chat_template_kwargs": {"script": "weather"}},
    ).bind_tools([get_weather])
    question = HumanMessage("How is the weather in Rome?")
    answer = llm.invoke([question])
    assert isinstance(answer, AIMessage)
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Roma"})
    whole = None
    for chunk in llm.stream([question]):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and [c["args"] for c in whole.tool_calls] == [{"city": "Roma"}]
    result = ToolMessage("sunny", tool_call_id=call["id"])
    assert llm.invoke([question, answer, result]).text == "It is sunny in Roma."
