"""/v1/responses by the official client and by hand, against a real engine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from server_process import Server
from transformers import AutoTokenizer

PATH = "/v1/responses"
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
EXTRA: dict[str, Any] = {"temperature": 0, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def official(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0)


def create(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(PATH, json={"input": "Hello!", "max_output_tokens": 8, **body})
    assert response.status_code == status, response.text
    return response.json() if status == 200 else response.json()["error"]


def read_typed(body: str) -> list[dict[str, Any]]:
    """Events with an ``event:`` line that is their type; there is no [DONE]."""
    assert body.endswith("\n\n")
    events = []
    for block in body[:-2].split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def stream(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    response = client.post(PATH, json={"input": "Hello!", "max_output_tokens": 8, "stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return read_typed(response.text)


def text_of(response: dict[str, Any]) -> str:
    return "".join(
        p["text"] for item in response["output"] if item["type"] == "message" for p in item["content"]
    )


def chat_text(client: TestClient, messages: list[dict[str, Any]], tokens: int = 8) -> str:
    body = {"messages": messages, "max_tokens": tokens, **GREEDY}
    answer = client.post("/v1/chat/completions", json=body).json()
    return answer["choices"][0]["message"]["content"]


def test_a_response_is_the_answer_of_the_chat(client: TestClient) -> None:
    answer = create(client, instructions="Be brief.", metadata={"k": "v"}, **GREEDY)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
    assert text_of(answer) == chat_text(client, messages)
    assert answer["object"] == "response" and answer["id"].startswith("resp_")
    assert answer["status"] == "incomplete" and answer["incomplete_details"] == {
        "reason": "max_output_tokens"
    }
    usage = answer["usage"]
    assert usage["output_tokens"] == 8 and usage["total_tokens"] == usage["input_tokens"] + 8
    assert usage["input_tokens_details"]["cached_tokens"] == 0
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    assert answer["metadata"] == {"k": "v"} and answer["instructions"] == "Be brief."
    assert answer["temperature"] == 0 and answer["text"] == {"format": {"type": "text"}}
    [item] = answer["output"]
    assert item["role"] == "assistant" and item["status"] == "incomplete"
    done = create(client, stop=chat_text(client, messages[1:])[3:6], **GREEDY)
    assert done["status"] == "completed" and done["incomplete_details"] is None and done["completed_at"]


@pytest.mark.parametrize(
    "items",
    [
        [{"role": "user", "content": "Hello!"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello!"}]}],
    ],
)
def test_forms_of_the_input_are_the_same(client: TestClient, items: list[Any]) -> None:
    assert text_of(create(client, input=items, **GREEDY)) == text_of(create(client, **GREEDY))


def test_histories_are_those_of_the_chat(client: TestClient) -> None:
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "2*3?"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I call."}]},
        {
            "type": "function_call",
            "call_id": "c1",
            "name": "mul",
            "arguments": '{"a": 2, "b": 3}',
            "id": "fc_1",
        },
        {"type": "function_call", "call_id": "c2", "name": "mul", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "6"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "7"}]},
    ]

    def call(call_id: str, arguments: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": "mul", "arguments": arguments}}

    calls = [call("c1", '{"a": 2, "b": 3}'), call("c2", "{}")]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "2*3?"},
        {
            "role": "assistant",
            "content": "I call.",
            "tool_calls": calls,
            "reasoning_content": "hm",
            "reasoning": "hm",
        },
        {"role": "tool", "tool_call_id": "c1", "content": "6"},
        {"role": "tool", "tool_call_id": "c2", "content": "7"},
    ]
    assert text_of(create(client, input=items, **GREEDY)) == chat_text(client, messages)
    counted = client.post(f"{PATH}/input_tokens", json={"input": items}).json()
    tokens = client.post("/tokenize", json={"messages": messages}).json()["count"]
    assert counted == {"object": "response.input_tokens", "input_tokens": tokens}


def test_the_events_of_a_stream(client: TestClient) -> None:
    whole = create(client, **GREEDY)
    events = stream(client, **GREEDY)
    kinds = [event["type"] for event in events]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(event["delta"] for event in deltas) == text_of(whole)
    assert events[0]["response"]["output"] == [] and events[0]["response"]["status"] == "in_progress"
    added, done = events[2]["item"], events[-2]["item"]
    assert added["content"] == [] and added["id"] == done["id"] == deltas[0]["item_id"]
    assert events[-1]["response"]["output"] == [done]
    assert events[-1]["response"]["usage"] == whole["usage"]
    ended = stream(client, stop=text_of(whole)[2:5], **GREEDY)
    assert ended[-1]["type"] == "response.completed"


def test_prompt_and_answer_as_the_model_had_them(
    official: openai.OpenAI, client: TestClient, mpt_checkpoint: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(mpt_checkpoint)
    body: dict[str, Any] = {"model": "tiny", "input": "Where is it?", "max_output_tokens": 9}
    wanted = {"enable_response_messages": True, "seed": 3, "ignore_eos": True}
    whole = official.responses.create(**body, extra_body=wanted)
    stream = official.responses.create(**body, stream=True, extra_body=wanted)
    streamed = [event for event in stream if event.type == "response.incomplete"][-1].response
    chat = {"messages": [{"role": "user", "content": "Where is it?"}]}
    prompt = client.post("/tokenize", json=chat).json()["tokens"]
    for response in (whole, streamed):
        asked, said = response.model_extra["input_messages"], response.model_extra["output_messages"]
        assert asked == [
            {"type": "raw_message_tokens", "message": tokenizer.decode(prompt), "tokens": prompt}
        ]
        [answer] = said
        assert answer["message"] == response.output_text
        assert len(answer["tokens"]) == 9 and tokenizer.decode(answer["tokens"]).startswith(
            answer["message"].rstrip("\ufffd")
        )
    plain = official.responses.create(**body)
    assert not {"input_messages", "output_messages"} & (plain.model_extra or {}).keys()


def test_logprobs_go_with_the_text(client: TestClient) -> None:
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, **GREEDY}
    entries = create(client, **asked)["output"][0]["content"][0]["logprobs"]
    assert len(entries) == 8 and all(len(entry["top_logprobs"]) == 2 for entry in entries)
    streamed = [
        entry
        for event in stream(client, **asked)
        if event["type"].endswith("text.delta")
        for entry in event["logprobs"]
    ]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in entries]


def test_stored_responses_are_the_conversation(client: TestClient) -> None:
    first = create(client, instructions="Only now.", **GREEDY)
    second = create(client, input="And then?", previous_response_id=first["id"], **GREEDY)
    third = create(client, input="Why?", previous_response_id=second["id"], **GREEDY)
    messages = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": text_of(first)}]
    messages += [{"role": "user", "content": "And then?"}]
    assert text_of(second) == chat_text(client, messages)
    messages += [{"role": "assistant", "content": text_of(second)}, {"role": "user", "content": "Why?"}]
    assert text_of(third) == chat_text(client, messages)
    assert client.get(f"{PATH}/{second['id']}").json() == second
    listed = client.get(f"{PATH}/{second['id']}/input_items").json()
    assert [item["content"] for item in listed["data"]] == ["And then?"] and not listed["has_more"]
    deleted = client.delete(f"{PATH}/{second['id']}").json()
    assert deleted == {"id": second["id"], "object": "response", "deleted": True}
    assert client.get(f"{PATH}/{second['id']}").status_code == 404
    error = create(client, 404, previous_response_id=third["id"])
    assert error["param"] == "previous_response_id" and second["id"] in error["message"]


def test_pages_of_the_input(client: TestClient) -> None:
    items = [{"role": "user", "content": str(i)} for i in range(5)]
    stored = create(client, input=items, max_output_tokens=1)

    def page(**query: Any) -> dict[str, Any]:
        return client.get(f"{PATH}/{stored['id']}/input_items", params=query).json()

    assert [item["content"] for item in page(order="asc")["data"]] == list("01234")
    first = page(limit=2)
    assert [item["content"] for item in first["data"]] == ["4", "3"] and first["has_more"]
    rest = page(after=first["last_id"])
    assert [item["content"] for item in rest["data"]] == list("210") and not rest["has_more"]
    assert page(after="nothing")["error"]["param"] == "after"
    assert page(limit=0)["error"]["param"] == "limit"


def test_nothing_is_stored_where_that_is_not_wanted(client: TestClient, make_client: Any) -> None:
    unstored = create(client, store=False)
    assert unstored["store"] is False and client.get(f"{PATH}/{unstored['id']}").status_code == 404
    storeless = make_client(api={"responses_store_size": 0})
    assert create(storeless)["store"] is False
    assert create(storeless, 400, store=True)["param"] == "store"
    assert create(storeless, 400, background=True)["param"] == "background"
    assert create(client, 400, background=True, store=False)["param"] == "background"


def test_stored_responses_belong_to_their_key(make_client: Any) -> None:
    guarded = make_client(http={"api_key": ("one", "two")})
    one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    made = guarded.post(PATH, json={"input": "a", "max_output_tokens": 1}, headers=one).json()
    body = {"input": "b", "previous_response_id": made["id"], "max_output_tokens": 1}
    for headers, status in ((one, 200), (two, 404)):
        assert guarded.get(f"{PATH}/{made['id']}", headers=headers).status_code == status
        assert guarded.post(PATH, json=body, headers=headers).status_code == status
    assert guarded.delete(f"{PATH}/{made['id']}", headers=two).status_code == 404
    assert guarded.get(f"{PATH}/{made['id']}").status_code == 401


def test_truncation_drops_the_oldest_turns(client: TestClient) -> None:
    turns = [{"role": "user", "content": f"{i} " + "word " * 20} for i in range(12)]
    items = [{"role": "system", "content": "Stay."}, *turns]
    assert create(client, 400, input=items)["param"] == "input"
    answer = create(client, input=items, truncation="auto", **GREEDY)
    assert answer["truncation"] == "auto"
    kept = next(
        k
        for k in range(12)
        if client.post("/tokenize", json={"messages": [items[0], *turns[k:]]}).json()["count"] + 8 <= 256
    )
    assert kept > 0 and text_of(answer) == chat_text(client, [items[0], *turns[kept:]])
    assert answer["usage"]["input_tokens"] <= 256 - 8
    assert create(client, 400, input="word " * 300, truncation="auto")["param"] == "input"


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("input", {"input": None}),
        ("input", {"input": ""}),
        ("input", {"input": []}),
        ("input", {"input": [{"type": "web_search_call", "id": "x"}]}),
        ("input", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
        ("input", {"input": [{"role": "user", "content": 5}]}),
        ("input", {"input": [{"type": "function_call", "name": "f", "call_id": "c"}]}),
        ("input", {"input": [{"content": "no role"}]}),
        ("input", {"input": "word " * 300}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("max_output_tokens", {"max_output_tokens": 10**6}),
        ("temperature", {"temperature": 3}),
        ("include", {"include": ["everything"]}),
        ("tools", {"tools": [{"type": "web_search"}]}),
        ("tool_choice", {"tool_choice": {"type": "web_search"}}),
        ("conversation", {"conversation": "conv_1"}),
        ("prompt", {"prompt": {"id": "p"}}),
        ("top_logprobs", {"top_logprobs": 21}),
        ("truncation", {"truncation": "sometimes"}),
        ("n", {"n": 2}),
        ("max_tokens", {"max_tokens": 5}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("use_beam_search", {"use_beam_search": True}),
        ("previous_response_id", {"previous_response_id": "resp_nothing"}),
        ("model", {"model": "nobody"}),
    ],
)
def test_what_cannot_be_honoured_is_named(client: TestClient, param: str, body: dict[str, Any]) -> None:
    response = client.post(PATH, json={"input": "a", "max_output_tokens": 2, **body})
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["param"] == param
    streamed = client.post(PATH, json={"input": "a", "max_output_tokens": 2, **body, "stream": True})
    assert streamed.status_code == response.status_code


def test_fields_that_mean_nothing_here_pass_and_unknown_ones_are_refused_when_strict(
    make_client: Any,
) -> None:
    strict = make_client(api={"strict_params": True})
    fields = {
        "user": "u",
        "max_tool_calls": 3,
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low"},
        "stream_options": {"include_obfuscation": False},
        "tool_choice": "auto",
    }
    assert create(strict, **fields)["text"]["verbosity"] == "low"
    assert create(strict, 400, inptu="x")["param"] == "inptu"
    assert create(strict, 400, text={"fromat": 1})["param"] == "text.fromat"


def test_the_official_client(official: openai.OpenAI) -> None:
    whole = official.responses.create(model="tiny", input="Where is it?", max_output_tokens=12, **EXTRA)
    assert whole.output_text and whole.model == "tiny" and whole.usage and whole.usage.output_tokens == 12
    with official.responses.stream(
        model="tiny", input="Where is it?", max_output_tokens=12, **EXTRA
    ) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == whole.output_text
    stop = {"stop": whole.output_text[2:5], "ignore_eos": True}
    with official.responses.stream(
        model="tiny", input="Where is it?", temperature=0, extra_body=stop
    ) as events:
        final = events.get_final_response() if events.until_done() else None
    assert final and final.status == "completed" and final.output_text == whole.output_text[:2]
    assert official.responses.retrieve(final.id).output_text == final.output_text
    assert [item.type for item in official.responses.input_items.list(whole.id)] == ["message"]
    follow = official.responses.create(
        model="tiny", input="x", previous_response_id=final.id, max_output_tokens=2
    )
    assert follow.previous_response_id == final.id
    assert official.responses.input_tokens.count(model="tiny", input="Where is it?").input_tokens == (
        whole.usage.input_tokens
    )
    official.responses.delete(final.id)
    with pytest.raises(openai.NotFoundError):
        official.responses.retrieve(final.id)


def test_background_responses(official: openai.OpenAI, server: Server) -> None:
    begun = official.responses.create(model="tiny", input="a", background=True, max_output_tokens=20, **EXTRA)
    assert begun.status == "queued"
    deadline = time.monotonic() + 60
    while (done := official.responses.retrieve(begun.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert done.status == "incomplete" and done.usage and done.usage.output_tokens == 20
    events = list(official.responses.retrieve(begun.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[1].type == "response.queued" and events[-1].type == "response.incomplete"
    later = list(
        official.responses.retrieve(begun.id, stream=True, starting_after=events[-3].sequence_number)
    )
    assert [event.type for event in later] == [event.type for event in events[-2:]]

    def cancel_one() -> Any:  # It may have ended before.
        long = official.responses.create(model="tiny", input="b", background=True, **EXTRA)
        return official.responses.cancel(long.id)

    cancelled = next(one for one in (cancel_one() for _ in range(20)) if one.status == "cancelled")
    assert official.responses.retrieve(cancelled.id).status == "cancelled"
    server.wait_until_idle()
    whole = official.responses.create(model="tiny", input="c", max_output_tokens=1)
    with pytest.raises(openai.BadRequestError):
        official.responses.cancel(whole.id)
    with pytest.raises(openai.BadRequestError):
        list(official.responses.retrieve(whole.id, stream=True))


def test_a_reader_that_leaves_ends_the_work(official: openai.OpenAI, server: Server) -> None:
    stream = official.responses.create(model="tiny", input="a", stream=True, **EXTRA)
    for event in stream:
        if event.type == "response.output_text.delta":
            break
    stream.close()
    server.wait_until_idle()


async def test_langchain_uses_it(server: Server) -> None:
    llm = ChatOpenAI(
        model="tiny",
        base_url=f"{server.url}/v1",
        api_key="EMPTY",
        use_responses_api=True,
        max_tokens=8,
        temperature=0,
        max_retries=0,
        extra_body={"ignore_eos": True},
        # LangChain's own client is one for the process, and would outlive the event loop of this test.
        http_async_client=openai.DefaultAsyncHttpxClient(),
    )
    history = [SystemMessage("Be kind."), HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    answer = llm.invoke(history)
    assert answer.text and answer.usage_metadata and answer.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.text for chunk in llm.stream(history)) == answer.text
    assert (await llm.ainvoke(history)).text == answer.text
    again = llm.invoke([HumanMessage("d")], previous_response_id=answer.response_metadata["id"])
    assert again.text


def test_responses_in_the_background_are_bounded(make_client: Any) -> None:
    with make_client(api={"max_background_responses": 2}) as client:
        long = {"background": True, "max_output_tokens": 200, **GREEDY}
        ids = [create(client, **long)["id"] for _ in range(2)]
        refused = client.post(PATH, json={"input": "Hello!", **long})
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert "--max-background-responses" in refused.json()["error"]["message"]
        assert create(client, **GREEDY)["status"] == "incomplete", (
            "those that somebody waits for are not bounded"
        )
        assert client.post(f"{PATH}/{ids[0]}/cancel").json()["status"] in ("cancelled", "incomplete")
        ids.append(create(client, **long)["id"])
        assert client.post(PATH, json={"input": 5, **long}).status_code == 400, "it takes no place"
        for response_id in ids:
            client.post(f"{PATH}/{response_id}/cancel")
        create(client, **{**long, "max_output_tokens": 1})


def test_items_can_be_referred_to(make_client: Any) -> None:
    client = make_client()
    text = {"role": "user", "content": [{"type": "input_text", "text": "One two three"}]}
    first = create(client, input=[text], **GREEDY)
    said = text_of(first)
    [item] = first["output"]
    [asked] = client.get(f"{PATH}/{first['id']}/input_items").json()["data"]
    more = {"role": "user", "content": "And four?"}
    chat = [
        {"role": "user", "content": "One two three"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And four?"},
    ]
    references = [{"type": "item_reference", "id": asked["id"]}, {"id": item["id"]}]
    second = create(client, input=[*references, more], **GREEDY)
    assert text_of(second) == chat_text(client, chat)
    kept = client.get(f"{PATH}/{second['id']}/input_items", params={"order": "asc"}).json()["data"]
    assert [one["id"] for one in kept[:2]] == [asked["id"], item["id"]]
    counted = client.post(f"{PATH}/input_tokens", json={"input": [*references, more]})
    assert counted.json()["input_tokens"] == second["usage"]["input_tokens"]

    unknown = client.post(PATH, json={"input": [{"type": "item_reference", "id": "msg_nobody"}]})
    assert unknown.status_code == 404 and unknown.json()["error"]["param"] == "input"
    assert create(client, 400, input=[{"type": "item_reference"}])["param"] == "input"
    twice = {"previous_response_id": first["id"], "input": [references[1], more]}
    assert "already" in create(client, 400, **twice)["message"]
    stranger = client.post(
        PATH, json={"input": references}, headers={"Authorization": "Bearer somebody else"}
    )
    assert stranger.status_code == 404
