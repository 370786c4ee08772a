"""/v1/chat/completions/batch: the answers are those that the chats get one by one."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

PATH = "/v1/chat/completions/batch"
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Where is the station?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One two three"}],
    [{"role": "user", "content": [{"type": "text", "text": "Io amo"}]}],
]
GREEDY = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


def test_each_conversation_has_its_answer(client: TestClient) -> None:
    fields: dict[str, Any] = {**GREEDY, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    batch = client.post(PATH, json={"messages": CHATS, **fields}).json()
    alone = [client.post("/v1/chat/completions", json={"messages": chat, **fields}).json() for chat in CHATS]
    assert batch["object"] == "chat.completion" and batch["id"].startswith("chatcmpl-")
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2]
    for choice, answer in zip(batch["choices"], alone, strict=True):
        [expected] = answer["choices"]
        for part in ("message", "finish_reason", "stop_reason", "token_ids"):
            assert choice[part] == expected[part]
        tokens, wanted = choice["logprobs"]["content"], expected["logprobs"]["content"]
        assert [token["token"] for token in tokens] == [token["token"] for token in wanted]
        for token, other in zip(tokens, wanted, strict=True):
            assert token["logprob"] == pytest.approx(other["logprob"], abs=1e-4)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert batch["usage"][name] == sum(answer["usage"][name] for answer in alone)


def test_the_form_of_an_answer_holds_for_all(client: TestClient) -> None:
    body = {"messages": CHATS, "structured_outputs": {"choice": ["yes", "no"]}, "max_tokens": 20}
    answers = [choice["message"]["content"] for choice in client.post(PATH, json=body).json()["choices"]]
    assert len(answers) == 3 and set(answers) <= {"yes", "no"}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("stream", {"stream": True}),
        ("n", {"n": 2}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("use_beam_search", {"use_beam_search": True}),
        ("prompt_logprobs", {"prompt_logprobs": 1}),
        ("temperature", {"temperature": 5}),
        ("audio", {"audio": {"voice": "x"}}),
        ("messages", {"messages": []}),
        ("messages", {"messages": CHATS[0]}),
        ("messages", {"messages": [CHATS[0], []]}),
        ("messages", {"messages": [CHATS[0]] * 1025}),
    ],
)
def test_what_cannot_be_honoured_is_named(
    client: TestClient, engine: Any, param: str, fields: dict[str, Any]
) -> None:
    answer = client.post(PATH, json={"messages": CHATS, **GREEDY, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert engine.num_requests == 0


def test_one_prompt_that_is_too_long_leaves_nothing_running(client: TestClient, engine: Any) -> None:
    long = [{"role": "user", "content": "a b c d " * 400}]
    assert client.post(PATH, json={"messages": [*CHATS, long], **GREEDY}).status_code == 400
    assert engine.num_requests == 0
