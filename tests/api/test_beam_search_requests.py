"""Beam search over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from tiny_models import make
from transformers import AutoTokenizer


def post(client: TestClient, status: int = 200, **body: Any) -> Any:
    response = client.post(
        "/v1/completions",
        json={"prompt": "The quick", "max_tokens": 6, "use_beam_search": True, "n": 3, **body},
    )
    assert response.status_code == status, response.text
    return response.json()


def test_choices_are_the_beams(client: TestClient, mpt_checkpoint: Any) -> None:
    answer = post(client, temperature=0, ignore_eos=True, return_token_ids=True, logprobs=2)
    tokenizer = AutoTokenizer.from_pretrained(mpt_checkpoint)
    prompt = tokenizer("The quick", return_tensors="pt")
    found = make("mpt").generate(
        **{k: v for k, v in prompt.items() if k != "token_type_ids"},
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    expected = found[:, prompt["input_ids"].shape[1] :].tolist()
    assert [choice["token_ids"] for choice in answer["choices"]] == expected
    assert answer["usage"]["completion_tokens"] == 18
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "length" and len(choice["logprobs"]["tokens"]) == 6
        assert all(2 <= len(top) <= 3 for top in choice["logprobs"]["top_logprobs"])


def test_chats_and_several_prompts(client: TestClient) -> None:
    answer = post(client, prompt=["One", "Two two"], n=2, length_penalty=0.5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    body = {"messages": [{"role": "user", "content": "Hi"}], "use_beam_search": True, "n": 2, "max_tokens": 3}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200 and len(response.json()["choices"]) == 2


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("stream", {"stream": True}),
        ("stop", {"stop": ["x"]}),
        ("top_p", {"top_p": 0.5}),
        ("presence_penalty", {"presence_penalty": 1}),
        ("logprob_token_ids", {"logprobs": 1, "logprob_token_ids": [5]}),
        ("guided_regex", {"guided_regex": "a"}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("echo", {"echo": True, "logprobs": 1}),
        ("n", {"n": 25}),
        ("length_penalty", {"length_penalty": 99}),
        ("length_penalty", {"length_penalty": 2, "use_beam_search": False}),
    ],
)
def test_what_does_not_go_with_it_is_named(client: TestClient, param: str, fields: dict[str, Any]) -> None:
    assert post(client, 400, **fields)["error"]["param"] == param
