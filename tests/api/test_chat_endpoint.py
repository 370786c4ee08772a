"""/v1/chat/completions against a real engine, with transformers as the oracle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fastapi.testclient import TestClient
from sse_reader import read_events, texts
from transformers import AutoTokenizer, MptForCausalLM

CHAT = "/v1/chat/completions"
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hello!"},
]
PROMPT = "System: You are a helpful assistant.\nUser: Hello!\nAssistant:"
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def oracle(mpt_checkpoint: Path) -> tuple[MptForCausalLM, Any]:
    model = MptForCausalLM.from_pretrained(mpt_checkpoint).eval()
    return model, AutoTokenizer.from_pretrained(mpt_checkpoint)


def ask(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(CHAT, json={"messages": MESSAGES, **body})
    assert response.status_code == status, response.text
    return response.json() if status == 200 else response.json()["error"]


def stream(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    response = client.post(CHAT, json={"messages": MESSAGES, "stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return read_events(response.text)


def test_greedy_answer_is_that_of_transformers(client: TestClient, oracle: Any) -> None:
    model, tokenizer = oracle
    prompt = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    answer = ask(client, max_completion_tokens=12, return_token_ids=True, **GREEDY)
    [choice] = answer["choices"]
    expected = tiny_models.greedy(model, prompt, 12)
    assert answer["prompt_token_ids"] == prompt and choice["token_ids"] == expected
    assert choice["message"]["content"] == tokenizer.decode(expected)
    assert choice["finish_reason"] == "length" and choice["stop_reason"] is None
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 12,
        "total_tokens": len(prompt) + 12,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    assert choice["message"]["role"] == "assistant" and choice["message"]["refusal"] is None


def test_stream_has_the_agreed_events(client: TestClient) -> None:
    whole = ask(client, max_tokens=20, **GREEDY)
    chunks = stream(client, max_tokens=20, stream_options={"include_usage": True}, **GREEDY)
    first, *middle, last = chunks
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all("usage" not in chunk for chunk in chunks[:-1])
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in middle]
    assert reasons[-1] == "length" and set(reasons[:-1]) <= {None}
    assert middle[-1]["choices"][0]["delta"]["content"]
    assert texts(chunks[:-1]) == {0: whole["choices"][0]["message"]["content"]}
    assert {(c["id"], c["created"], c["model"], c["object"]) for c in chunks} == {
        (first["id"], first["created"], whole["model"], "chat.completion.chunk")
    }


def test_stream_without_options_has_no_usage(client: TestClient) -> None:
    assert all("usage" not in chunk and chunk["choices"] for chunk in stream(client, max_tokens=3))


def test_continuous_usage(client: TestClient, make_client: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    forced = make_client(api={"enable_force_include_usage": True})
    for chunks in (
        stream(client, max_tokens=4, stream_options=options, **GREEDY),
        stream(forced, max_tokens=4, **GREEDY),
    ):
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts[0] == 0 and counts == sorted(counts) and counts[-1] == 4
        assert chunks[-1]["choices"] == []


@pytest.mark.parametrize("tokens", [1, 5])
def test_an_answer_tells_how_long_it_took(make_client: Any, tokens: int) -> None:
    client = make_client(api={"enable_per_request_metrics": True})
    body = {"max_tokens": tokens, **GREEDY}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    prompt = {"prompt": "One two", **body}
    streams = [
        stream(client, **body, stream_options={"include_usage": True}),
        read_events(client.post("/v1/completions", json={**prompt, **usage}).text),
    ]
    assert not any("metrics" in chunk for chunks in streams for chunk in chunks[:-1])
    answers = [ask(client, **body), client.post("/v1/completions", json=prompt).json()]
    for answer in [*answers, *(chunks[-1] for chunks in streams)]:
        took = answer["metrics"]
        assert took["queue_time_ms"] >= 0 and took["time_to_first_token_ms"] > 0
        seconds = (took["time_to_first_token_ms"] + took["generation_time_ms"]) / 1000
        assert took["tokens_per_second"] == pytest.approx(tokens / seconds)
        assert ("mean_itl_ms" in took) is (tokens > 1)
        if tokens > 1:
            assert took["mean_itl_ms"] * (tokens - 1) == pytest.approx(took["generation_time_ms"])
    several = client.post("/v1/completions", json={**prompt, "prompt": ["One", "Two"]}).json()
    assert several["metrics"] is None


def test_several_sequences_differ_and_repeat_with_a_seed(client: TestClient) -> None:
    body = {"n": 3, "seed": 7, "temperature": 1.0, "max_tokens": 16, "ignore_eos": True}
    first, second = ask(client, **body), ask(client, **body)
    contents = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(contents)) == 3
    assert contents == [choice["message"]["content"] for choice in second["choices"]]
    assert first["usage"]["completion_tokens"] == 48
    streamed = stream(client, **body)
    assert texts(streamed) == dict(enumerate(contents))
    finals = [c["choices"][0]["index"] for c in streamed if c["choices"][0]["finish_reason"]]
    assert sorted(finals) == [0, 1, 2]


def test_logprobs_are_the_models_own(client: TestClient, oracle: Any) -> None:
    model, tokenizer = oracle
    answer = ask(client, max_tokens=6, logprobs=True, top_logprobs=3, return_token_ids=True, **GREEDY)
    prompt, tokens = answer["prompt_token_ids"], answer["choices"][0]["token_ids"]
    expected = tiny_models.logprobs(model, prompt + tokens)[len(prompt) - 1 :]
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 6
    for entry, token, row in zip(content, tokens, expected, strict=False):
        assert entry["logprob"] == pytest.approx(row[token].item(), abs=1e-4)
        best = row.topk(3)
        assert [c["logprob"] for c in entry["top_logprobs"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert bytes(entry["top_logprobs"][0]["bytes"]).decode(errors="replace") == tokenizer.decode(
            [best.indices[0]]
        )
    joined = b"".join(bytes(entry["bytes"]) for entry in content)
    assert joined.decode(errors="replace") == answer["choices"][0]["message"]["content"]


def test_logprobs_without_candidates_and_as_ids(client: TestClient) -> None:
    plain = ask(client, max_tokens=2, logprobs=True, **GREEDY)["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in plain] == [[], []]
    answer = ask(
        client, max_tokens=2, logprobs=True, return_tokens_as_token_ids=True, return_token_ids=True, **GREEDY
    )
    shown = [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]]
    assert shown == [f"token_id:{i}" for i in answer["choices"][0]["token_ids"]]


def test_streamed_logprobs_are_those_of_the_whole_answer(client: TestClient) -> None:
    body = {"max_tokens": 10, "logprobs": True, "top_logprobs": 2, **GREEDY}
    whole = ask(client, **body)["choices"][0]["logprobs"]["content"]
    pieces = [
        c["choices"][0]["logprobs"]["content"] for c in stream(client, **body) if c["choices"][0]["logprobs"]
    ]
    streamed = [entry for piece in pieces for entry in piece]
    assert [e["token"] for e in streamed] == [e["token"] for e in whole]
    assert [e["logprob"] for e in streamed] == pytest.approx([e["logprob"] for e in whole], abs=1e-4)


def test_prompt_logprobs(client: TestClient, oracle: Any) -> None:
    answer = ask(client, max_tokens=1, prompt_logprobs=1, return_token_ids=True, **GREEDY)
    ids = answer["prompt_token_ids"]
    first, *rest = answer["prompt_logprobs"]
    assert first is None and len(rest) == len(ids) - 1
    expected = tiny_models.logprobs(oracle[0], ids)
    for i, position in enumerate(rest):
        assert position[str(ids[i + 1])]["logprob"] == pytest.approx(expected[i, ids[i + 1]].item(), abs=1e-4)
        assert 1 <= len(position) <= 2 and any(c["rank"] == 1 for c in position.values())


def test_stop_string_ends_the_answer(client: TestClient) -> None:
    full = ask(client, max_tokens=30, **GREEDY)["choices"][0]["message"]["content"]
    stop = full[8:11]
    expected = full[: full.index(stop)]
    [choice] = ask(client, max_tokens=30, stop=stop, **GREEDY)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == (
        expected,
        "stop",
        stop,
    )
    chunks = stream(client, max_tokens=30, stop=[stop, "never-seen"], **GREEDY)
    assert texts(chunks) == {0: expected}
    assert chunks[-1]["choices"][0]["stop_reason"] == stop
    [kept] = ask(client, max_tokens=30, stop=stop, include_stop_str_in_output=True, **GREEDY)["choices"]
    assert kept["message"]["content"] == expected + stop


def test_stop_token_id_is_the_reason(client: TestClient) -> None:
    ids = ask(client, max_tokens=8, return_token_ids=True, **GREEDY)["choices"][0]["token_ids"]
    [choice] = ask(client, max_tokens=8, stop_token_ids=[ids[3]], return_token_ids=True, **GREEDY)["choices"]
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] == ids[3]
    assert choice["token_ids"] == ids[: ids.index(ids[3]) + 1]


def test_logit_bias_and_allowed_tokens(client: TestClient) -> None:
    [choice] = ask(client, max_tokens=3, logit_bias={"65": 100}, return_token_ids=True, **GREEDY)["choices"]
    assert choice["token_ids"] == [65, 65, 65]
    [choice] = ask(client, max_tokens=3, allowed_token_ids=[70], return_token_ids=True)["choices"]
    assert choice["token_ids"] == [70, 70, 70]


def test_limits_of_the_context(client: TestClient) -> None:
    assert ask(client, 400, max_tokens=tiny_models.MAX_LEN + 1)["param"] == "max_tokens"
    assert (
        ask(client, 400, max_completion_tokens=tiny_models.MAX_LEN + 1, max_tokens=1)["param"]
        == "max_completion_tokens"
    )
    assert ask(client, 400, max_tokens=0)["param"] == "max_tokens"
    usage = ask(client, max_tokens=tiny_models.MAX_LEN, **GREEDY)["usage"]
    assert usage["total_tokens"] == tiny_models.MAX_LEN
    usage = ask(client, **GREEDY)["usage"]
    assert usage["total_tokens"] == tiny_models.MAX_LEN
    error = ask(client, 400, messages=[{"role": "user", "content": "word " * 300}])
    assert error["param"] == "input_tokens" and "maximum context length is 256 tokens" in error["message"]


def test_texts_that_cannot_fit_are_refused_unread(client: TestClient) -> None:
    error = ask(client, 400, messages=[{"role": "user", "content": "a" * 2_000_000}])
    assert error["param"] == "input_tokens" and "characters" in error["message"]


def test_min_tokens_must_fit_behind_the_prompt(client: TestClient) -> None:
    ids = ask(client, max_tokens=1, return_token_ids=True)["prompt_token_ids"]
    room = tiny_models.MAX_LEN - len(ids)
    assert ask(client, min_tokens=room)["usage"]["completion_tokens"] == room
    for limit in ({}, {"max_tokens": room + 1}):
        error = ask(client, 400, min_tokens=room + 1, **limit)
        assert error["param"] == "min_tokens" and f"room for {room}" in error["message"]


def test_max_completion_tokens_wins(client: TestClient) -> None:
    assert ask(client, max_completion_tokens=2, max_tokens=9, **GREEDY)["usage"]["completion_tokens"] == 2


def test_truncation_keeps_the_asked_side(client: TestClient) -> None:
    ids = ask(client, max_tokens=1, return_token_ids=True)["prompt_token_ids"]
    for side, expected in (("left", ids[-5:]), ("right", ids[:5])):
        body = {
            "truncate_prompt_tokens": 5,
            "truncation_side": side,
            "return_token_ids": True,
            "max_tokens": 1,
        }
        assert ask(client, **body)["prompt_token_ids"] == expected
    long = [{"role": "user", "content": "word " * 300}]
    assert ask(client, messages=long, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == 255
    for wrong in (0, -2, 257):
        assert ask(client, 400, truncate_prompt_tokens=wrong)["param"] == "truncate_prompt_tokens"


def test_continue_final_message_and_echo(client: TestClient) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "One two"},
    ]
    body = {
        "messages": messages,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 3,
        **GREEDY,
    }
    plain, echoed = ask(client, **body), ask(client, echo=True, **body)
    assert plain["choices"][0]["message"]["role"] == "assistant"
    text = plain["choices"][0]["message"]["content"]
    assert echoed["choices"][0]["message"]["content"] == "One two" + text
    assert texts(stream(client, echo=True, **body)) == {0: "One two" + text}
    messages[-1]["content"] = [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]
    continued = ask(client, **body)["choices"][0]["message"]["content"]
    assert ask(client, echo=True, **body)["choices"][0]["message"]["content"] == "One\ntwo" + continued
    assert texts(stream(client, echo=True, **body)) == {0: "One\ntwo" + continued}
    assert (
        ask(client, 400, continue_final_message=True, add_generation_prompt=True)["param"]
        == "continue_final_message"
    )


def test_content_parts_are_joined_and_images_refused(client: TestClient) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    plain = [{"role": "user", "content": "one\ntwo"}]
    a, b = (ask(client, messages=m, max_tokens=1, return_token_ids=True) for m in (parts, plain))
    assert a["prompt_token_ids"] == b["prompt_token_ids"]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]
    error = ask(client, 400, messages=image)
    assert error["param"] == "messages" and "image_url" in error["message"]


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("stream_options", {"stream_options": {"include_usage": True}}),
        ("prompt_logprobs", {"prompt_logprobs": 1, "stream": True}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": -1}),
        ("prompt_logprobs", {"prompt_logprobs": 21}),
        ("temperature", {"temperature": 2.1}),
        ("top_p", {"top_p": 0}),
        ("top_k", {"top_k": -2}),
        ("min_p", {"min_p": 1.5}),
        ("n", {"n": 0}),
        ("n", {"n": 10**18}),
        ("n", {"n": 2, "temperature": 0}),
        ("presence_penalty", {"presence_penalty": 2.5}),
        ("repetition_penalty", {"repetition_penalty": 0}),
        ("stop", {"stop": [""]}),
        ("stop", {"stop": list("abcde")}),
        ("stop_token_ids", {"stop_token_ids": [tiny_models.VOCAB]}),
        ("min_tokens", {"min_tokens": 5, "max_tokens": 4}),
        ("logit_bias", {"logit_bias": {"tok": 1}}),
        ("logit_bias", {"logit_bias": {"100000": 1}}),
        ("allowed_token_ids", {"allowed_token_ids": []}),
        ("logprob_token_ids", {"logprob_token_ids": [1]}),
        ("priority", {"priority": 1}),
        ("cache_salt", {"cache_salt": ""}),
        ("cache_salt", {"cache_salt": "a/b"}),
        ("request_id", {"request_id": ""}),
        ("chat_template", {"chat_template": "{{ 1 }}"}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"tokenize": True}}),
    ],
)
def test_values_that_cannot_be_honoured_are_named(
    client: TestClient, param: str, body: dict[str, Any]
) -> None:
    assert ask(client, 400, **body)["param"] == param


@pytest.mark.parametrize(("seed", "text"), [(2**63, "less_than_equal"), (-(2**63) - 1, "greater_than_equal")])
def test_seed_out_of_range_says_which_end(client: TestClient, seed: int, text: str) -> None:
    error = ask(client, 400, seed=seed)
    assert error["param"] == "seed" and text in error["message"]


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("structural_tag", {"structural_tag": {}}),
        ("audio", {"audio": {"voice": "x"}}),
        ("kv_transfer_params", {"kv_transfer_params": {"prompt_token_ids": [5, 6]}}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("thinking_token_budget", {"thinking_token_budget": 5}),
    ],
)
def test_features_that_are_not_there_are_refused_by_name(
    client: TestClient, param: str, body: dict[str, Any]
) -> None:
    error = ask(client, 400, **body)
    assert error["param"] == param and param in error["message"]


def test_values_that_ask_for_nothing_pass(client: TestClient) -> None:
    ask(
        client,
        max_tokens=1,
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="none",
        response_format={"type": "text"},
        use_beam_search=False,
        modalities=["text"],
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        prediction={"type": "content", "content": "x"},
    )


def test_null_is_the_same_as_left_out(client: TestClient) -> None:
    names = [
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "logprobs",
        "tools",
        "stream_options",
        "model",
        "audio",
    ]
    nothing = dict.fromkeys(names)
    assert ask(client, **{**nothing, "max_tokens": 2, "ignore_eos": True})["usage"]["completion_tokens"] == 2


def test_unknown_fields_are_accepted_and_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "api"):
        ask(client, max_tokens=1, no_such_field=1, copy="x", user="known", **{"two\nlines": 1})
    assert "copy, no_such_field, two lines" in caplog.text and "user" not in caplog.text


def test_model_names(client: TestClient) -> None:
    error = ask(client, 404, model="nope")
    assert error == {
        "message": "The model `nope` does not exist.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


def test_request_ids(client: TestClient, make_client: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(client, max_tokens=1, request_id="mine")["id"] == "chatcmpl-mine"
    talkative = make_client(api={"enable_request_id_headers": True})
    response = talkative.post(
        CHAT,
        json={"messages": MESSAGES, "max_tokens": 1, "request_id": "body"},
        headers={"X-Request-Id": "header"},
    )
    assert response.json()["id"] == "chatcmpl-header"
    assert response.headers["x-request-id"] == "header"
    made = talkative.post(CHAT, json={"messages": MESSAGES, "max_tokens": 1})
    assert made.headers["x-request-id"] == made.json()["id"]
    assert talkative.get("/health", headers={"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"
    for path, headers in (("/health", {}), ("/nowhere", {}), ("/version", {"X-Request-Id": "x" * 999})):
        assert len(talkative.get(path, headers=headers).headers["x-request-id"]) == 32
    long = client.post(
        CHAT, json={"messages": MESSAGES, "max_tokens": 1}, headers={"X-Request-Id": "x" * 129}
    )
    assert long.status_code == 200 and len(long.json()["id"]) == len("chatcmpl-") + 32
    assert "X-Request-Id of 129 characters is ignored" in caplog.text
    assert "x-request-id" not in client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 1}).headers


def test_priority_header_wins(client: TestClient) -> None:
    body = {"messages": MESSAGES, "max_tokens": 1}
    for headers, given, status in (
        ({"X-Vllm-Priority": "5"}, 0, 400),
        ({"X-Vllm-Priority": "0"}, 5, 200),
        ({"X-Vllm-Priority": "high"}, 0, 400),
        ({"X-Vllm-Priority": str(2**63)}, 0, 400),
        ({}, 2**63, 400),
    ):
        response = client.post(CHAT, json={**body, "priority": given}, headers=headers)
        assert response.status_code == status, (headers, given)


def test_cached_tokens_are_reported_where_asked_for(make_client: Any) -> None:
    client = make_client(api={"enable_prompt_tokens_details": True})
    body = {"max_tokens": 1, "cache_salt": "only-this-test"}
    assert ask(client, **body)["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert ask(client, **body)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    other = ask(client, max_tokens=1, cache_salt="another")["usage"]["prompt_tokens_details"]
    assert other == {"cached_tokens": 0}


def test_generation_config_defaults_are_below_the_request(
    make_client: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = engine.info
    defaults = dict(info.default_sampling)
    try:
        info.default_sampling.clear()
        info.default_sampling.update(temperature=0.0, max_tokens=3)
        client = make_client()
        one, two = ask(client, ignore_eos=True), ask(client, ignore_eos=True)
        assert one["choices"] == two["choices"] and one["usage"]["completion_tokens"] == 3
        assert ask(client, max_tokens=5, ignore_eos=True)["usage"]["completion_tokens"] == 5
        [special, *_] = sorted(info.eos_token_ids)
        ends = {"allowed_token_ids": [special], "ignore_eos": True}
        assert ask(client, **ends)["choices"][0]["message"]["content"] == ""
        info.default_sampling["skip_special_tokens"] = False
        assert ask(client, **ends)["choices"][0]["message"]["content"]
        assert ask(client, skip_special_tokens=True, **ends)["choices"][0]["message"]["content"] == ""
    finally:
        info.default_sampling.clear()
        info.default_sampling.update(defaults)


def test_chat_template_settings(make_client: Any) -> None:
    refusing = make_client(api={"default_chat_template": False})
    error = ask(refusing, 400)
    assert error["param"] == "messages" and "--chat-template" in error["message"]
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ suffix }}"
    own = make_client(api={"chat_template": template, "default_chat_template_kwargs": {"suffix": "<end>"}})
    expected = "[system]You are a helpful assistant.[user]Hello!"
    for kwargs, suffix in ({}, "<end>"), ({"suffix": "!", "unused": 1}, "!"):
        body = {"messages": MESSAGES, "chat_template_kwargs": kwargs}
        ids = own.post("/tokenize", json=body).json()["tokens"]
        assert own.post("/detokenize", json={"tokens": ids}).json()["prompt"] == expected + suffix
    trusting = make_client(api={"trust_request_chat_template": True})
    body = {"messages": MESSAGES, "chat_template": "just this"}
    ids = trusting.post("/tokenize", json=body).json()["tokens"]
    assert trusting.post("/detokenize", json={"tokens": ids}).json()["prompt"] == "just this"


def test_a_template_from_a_request_has_a_time_limit(
    make_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.serving.prompts.TEMPLATE_TIMEOUT_S", 0.5)
    client = make_client(api={"trust_request_chat_template": True})
    # Some seconds of work: this thread cannot be stopped, and must not outlive the test by much.
    slow = "{% for i in range(9999) %}{% for j in range(2000) %}{% set x = i %}{% endfor %}{% endfor %}"
    error = ask(client, 400, chat_template=slow)
    assert error["param"] == "chat_template" and "0.5 s" in error["message"]
    for body in ({}, {"chat_template": "quick"}):
        assert client.post("/tokenize", json={"messages": MESSAGES, **body}).status_code == 200
