"""/v1/completions against a real engine, with transformers as the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from fastapi.testclient import TestClient
from sse_reader import read_events, texts
from transformers import AutoTokenizer, MptForCausalLM

PATH = "/v1/completions"
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def oracle(mpt_checkpoint: Path) -> tuple[MptForCausalLM, Any]:
    model = MptForCausalLM.from_pretrained(mpt_checkpoint).eval()
    return model, AutoTokenizer.from_pretrained(mpt_checkpoint)


def ask(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(PATH, json=body)
    assert response.status_code == status, response.text
    return response.json() if status == 200 else response.json()["error"]


def stream(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    response = client.post(PATH, json={"stream": True, **body})
    assert response.status_code == 200, response.text
    return read_events(response.text)


def test_greedy_text_is_that_of_transformers(client: TestClient, oracle: Any) -> None:
    model, tokenizer = oracle
    prompt = tokenizer("Where is the station?")["input_ids"]
    expected = tokenizer.decode(tiny_models.greedy(model, prompt, 16))
    for given in ("Where is the station?", prompt, ["Where is the station?"], [prompt]):
        answer = ask(client, prompt=given, **GREEDY)
        [choice] = answer["choices"]
        assert choice["text"] == expected
        assert choice["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 16  # the endpoint's default
        assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")


def test_choices_are_numbered_prompt_by_prompt(client: TestClient) -> None:
    prompts = ["One two", "The quick", "Io amo"]
    body = {"max_tokens": 5, "n": 2, "seed": 3, "ignore_eos": True}
    answer = ask(client, prompt=prompts, **body)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert answer["usage"]["completion_tokens"] == 30
    alone = [ask(client, prompt=p, **body) for p in prompts]
    assert answer["usage"]["prompt_tokens"] == sum(a["usage"]["prompt_tokens"] for a in alone)
    for i, single in enumerate(alone):
        expected = [choice["text"] for choice in single["choices"]]
        assert [c["text"] for c in answer["choices"][2 * i : 2 * i + 2]] == expected


def test_stream_of_several_choices_adds_up(client: TestClient) -> None:
    body = {"prompt": ["One two", "The quick"], "max_tokens": 9, "n": 2, "seed": 5, "ignore_eos": True}
    whole = ask(client, **body)
    chunks = stream(client, stream_options={"include_usage": True}, **body)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert texts(chunks) == {c["index"]: c["text"] for c in whole["choices"]}
    finals = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["finish_reason"]]
    assert sorted(c["index"] for c in finals) == [0, 1, 2, 3]


@pytest.mark.parametrize("streaming", [False, True])
def test_echo_opens_with_the_prompt(client: TestClient, streaming: bool) -> None:
    body = {"prompt": ["One two", "perché è"], "max_tokens": 4, **GREEDY}
    plain = {c["index"]: c["text"] for c in ask(client, **body)["choices"]}
    body["echo"] = True
    if streaming:
        echoed = texts(stream(client, **body))
    else:
        echoed = {c["index"]: c["text"] for c in ask(client, **body)["choices"]}
    assert echoed == {0: "One two" + plain[0], 1: "perché è" + plain[1]}


def test_echo_of_token_ids_is_their_text(client: TestClient, oracle: Any) -> None:
    ids = oracle[1]("Hello there")["input_ids"]
    assert ask(client, prompt=ids, echo=True, max_tokens=1)["choices"][0]["text"].startswith("Hello there")


@pytest.mark.parametrize("top", [0, 2])
@pytest.mark.parametrize("max_tokens", [0, 3])
def test_echoed_logprobs_score_the_prompt(client: TestClient, oracle: Any, top: int, max_tokens: int) -> None:
    model, tokenizer = oracle
    text = "The quick brown fox"
    ids = tokenizer(text)["input_ids"]
    answer = ask(
        client, prompt=text, echo=True, logprobs=top, max_tokens=max_tokens, return_token_ids=True, **GREEDY
    )
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["prompt_token_ids"] == ids and len(choice["token_ids"]) == max_tokens
    assert answer["usage"]["completion_tokens"] == max_tokens
    ids = ids + choice["token_ids"]
    if max_tokens == 0:
        assert choice["text"] == text
    lists = choice["logprobs"]
    assert {len(column) for column in lists.values()} == {len(ids)}
    assert lists["token_logprobs"][0] is None and lists["top_logprobs"][0] is None
    expected = tiny_models.logprobs(model, ids)
    for i in range(1, len(ids)):
        own = expected[i - 1, ids[i]].item()
        assert lists["token_logprobs"][i] == pytest.approx(own, abs=1e-4)
        shown = lists["top_logprobs"][i]
        assert shown[lists["tokens"][i]] == pytest.approx(own, abs=1e-4)
        assert len(shown) == 1 if top == 0 else len(shown) in (top, top + 1)
        assert top == 0 or max(shown.values()) == pytest.approx(expected[i - 1].max().item(), abs=1e-4)
    offsets, tokens = lists["text_offset"], lists["tokens"]
    assert offsets == sorted(offsets) and offsets[-1] < len(choice["text"])
    assert [text[o : o + len(t)] for o, t in zip(offsets, tokens, strict=True) if o < len(text)] == [
        tokenizer.decode([i]) for i in ids[: len(tokenizer(text)["input_ids"])]
    ]


def test_streamed_logprobs_go_on_where_they_stopped(client: TestClient) -> None:
    body = {"prompt": "One two", "max_tokens": 8, "logprobs": 1, "echo": True, **GREEDY}
    whole = ask(client, **body)["choices"][0]["logprobs"]
    pieces = [chunk["choices"][0]["logprobs"] for chunk in stream(client, **body)]
    for column in ("tokens", "text_offset"):
        assert [value for piece in pieces for value in piece[column]] == whole[column]


@pytest.mark.parametrize("text", ["a😀b", "perché 日本 🎉!", "<s>x"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_text_offsets_are_positions_in_the_text(
    client: TestClient, oracle: Any, text: str, as_ids: bool
) -> None:
    tokenizer = oracle[1]
    ids = tokenizer(text)["input_ids"]
    expected = [len(tokenizer.decode(ids[:i]).rstrip("\ufffd")) for i in range(len(ids))]
    for prompt in (text, ids):
        body = {"prompt": prompt, "echo": True, "logprobs": 0, "return_tokens_as_token_ids": as_ids}
        [choice] = ask(client, max_tokens=0, **body)["choices"]
        assert choice["text"] == text and choice["logprobs"]["text_offset"] == expected
        [choice] = ask(client, max_tokens=1, **body)["choices"]
        assert choice["logprobs"]["text_offset"] == [*expected, len(text)]


@pytest.mark.parametrize("seed", range(3))
def test_text_offsets_never_leave_the_text(client: TestClient, seed: int) -> None:
    text = ask(client, prompt="One two", max_tokens=12, seed=seed, ignore_eos=True)["choices"][0]["text"]
    for stop in (None, text[4:6], text[6:9]):
        body = {"prompt": "One two", "max_tokens": 12, "seed": seed, "ignore_eos": True, "logprobs": 0}
        [choice] = ask(client, stop=stop, **body)["choices"]
        offsets = choice["logprobs"]["text_offset"]
        assert offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] <= len(choice["text"])


def test_prompt_logprobs_of_each_choice(client: TestClient) -> None:
    answer = ask(
        client, prompt="One two", n=2, seed=1, max_tokens=2, prompt_logprobs=2, logprobs=5, echo=True
    )
    for choice in answer["choices"]:
        first, *rest = choice["prompt_logprobs"]
        assert first is None and all(2 <= len(position) <= 3 for position in rest)
        assert all(set(c) == {"logprob", "rank", "decoded_token"} for p in rest for c in p.values())


def test_tokens_as_ids_tell_equal_texts_apart(client: TestClient) -> None:
    answer = ask(
        client,
        prompt="é",
        max_tokens=2,
        logprobs=3,
        return_tokens_as_token_ids=True,
        return_token_ids=True,
        **GREEDY,
    )
    [choice] = answer["choices"]
    assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in choice["token_ids"]]
    assert all(len(p) == 3 for p in choice["logprobs"]["top_logprobs"])


def test_streamed_token_ids(client: TestClient) -> None:
    body = {"prompt": "One two", "max_tokens": 6, "return_token_ids": True, **GREEDY}
    [choice] = ask(client, **body)["choices"]
    first, *later = [chunk["choices"][0] for chunk in stream(client, **body)]
    assert first["prompt_token_ids"] == choice["prompt_token_ids"]
    assert all("prompt_token_ids" not in c for c in later)
    assert [i for c in (first, *later) for i in c["token_ids"]] == choice["token_ids"]


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], None, ["a", ""], [[1], []]])
def test_empty_prompts_are_refused(client: TestClient, prompt: Any) -> None:
    error = ask(client, 400, prompt=prompt)
    assert error["param"] == "prompt" and "non-empty" in error["message"]
    assert ask(client, prompt="a", max_tokens=1)["choices"]


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("prompt", {}),
        ("prompt", {"prompt": [tiny_models.VOCAB]}),
        ("prompt", {"prompt": [-1]}),
        ("prompt", {"prompt": [2**70]}),
        ("prompt", {"prompt": [[1, 2], [3, 10**9]]}),
        ("prompt", {"prompt": [1.5]}),
        ("prompt", {"prompt": [True]}),
        ("prompt", {"prompt": {"a": 1}}),
        ("prompt", {"prompt": ["a", 1]}),
        ("prompt", {"prompt": ["a"] * 1025}),
        ("n", {"prompt": ["a"] * 100, "n": 100}),
        ("max_tokens", {"prompt": "a", "max_tokens": 0}),
        ("max_tokens", {"prompt": "a", "max_tokens": -1}),
        ("logprobs", {"prompt": "a", "logprobs": 21}),
        ("logprobs", {"prompt": "a", "logprobs": -2}),
        ("suffix", {"prompt": "a", "suffix": "b"}),
        ("best_of", {"prompt": "a", "best_of": 2, "n": 3}),
        ("best_of", {"prompt": "a", "best_of": 2, "stream": True}),
        ("best_of", {"prompt": "a", "best_of": 2, "temperature": 0}),
        ("best_of", {"prompt": "a", "best_of": 2, "use_beam_search": True}),
        ("best_of", {"prompt": ["a"] * 100, "best_of": 100}),
        ("prompt_embeds", {"prompt": "a", "prompt_embeds": "AAAA"}),
        ("prompt", {"prompt": None, "prompt_embeds": []}),
        ("min_tokens", {"prompt": "a", "echo": True, "max_tokens": 0, "min_tokens": 1}),
        ("input_tokens", {"prompt": [1] * 256}),
    ],
)
def test_values_that_cannot_be_honoured_are_named(
    client: TestClient, param: str, body: dict[str, Any]
) -> None:
    assert ask(client, 400, **body)["param"] == param


def test_one_bad_prompt_leaves_nothing_running(client: TestClient, engine: Any) -> None:
    assert ask(client, 400, prompt=[[1, 2], [3, 4], [10**6]])["param"] == "prompt"
    assert ask(client, prompt="a", max_tokens=1)["choices"]
    assert engine.num_requests == 0


def test_best_of_equal_to_n_asks_for_nothing(client: TestClient) -> None:
    assert len(ask(client, prompt="a", best_of=2, n=2, max_tokens=1)["choices"]) == 2


def test_best_of_returns_the_likeliest(client: TestClient) -> None:
    asked: dict[str, Any] = {"prompt": ["One", "Two"], "seed": 7, "max_tokens": 6, "temperature": 1.5}
    fields: list[dict[str, Any]] = [{}, {"logprobs": 0}]
    for extra in fields:
        drawn = ask(client, **asked, n=5, logprobs=0)
        best = ask(client, **asked, n=2, best_of=5, **extra)
        assert best["usage"] == drawn["usage"], "all that was generated counts"
        for prompt in range(2):
            group = drawn["choices"][5 * prompt : 5 * prompt + 5]
            scores = [sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["tokens"]) for c in group]
            expected = [group[i]["text"] for i in np.argsort(scores)[::-1][:2]]
            found = best["choices"][2 * prompt : 2 * prompt + 2]
            assert [choice["text"] for choice in found] == expected
            assert [choice["index"] for choice in found] == [2 * prompt, 2 * prompt + 1]
            assert all((choice["logprobs"] is None) == (not extra) for choice in found)


def test_more_prompts_than_the_engine_runs_at_once(client: TestClient) -> None:
    answer = ask(client, prompt=[[i, i + 1] for i in range(40)], max_tokens=2, **GREEDY)
    assert [choice["index"] for choice in answer["choices"]] == list(range(40))
