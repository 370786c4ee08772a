"""The rules of single parameters at both endpoints, where no other file proves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from fastapi.testclient import TestClient
from sse_reader import read_events, texts
from transformers import AutoTokenizer, LogitsProcessorList, MptForCausalLM, RepetitionPenaltyLogitsProcessor

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello!"}]
GREEDY = {"temperature": 0, "ignore_eos": True}
BOS, EOS = 0, 1


@pytest.fixture(scope="module")
def oracle(mpt_checkpoint: Path) -> tuple[MptForCausalLM, Any]:
    model = MptForCausalLM.from_pretrained(mpt_checkpoint).eval()
    return model, AutoTokenizer.from_pretrained(mpt_checkpoint)


def complete(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(COMPLETIONS, json={"prompt": "One two", **body})
    assert response.status_code == status, response.text
    return response.json() if status == 200 else response.json()["error"]


def chat(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(CHAT, json={"messages": MESSAGES, **body})
    assert response.status_code == status, response.text
    return response.json() if status == 200 else response.json()["error"]


def ids_of(client: TestClient, **body: Any) -> list[int]:
    """Token ids of the only choice of a text completion."""
    [choice] = complete(client, return_token_ids=True, **body)["choices"]
    return choice["token_ids"]


def decode(model: Any, prompt: list[int], steps: int, change: Callable[..., torch.Tensor]) -> list[int]:
    """Greedy decoding by transformers, with ``change(all ids, output ids, scores [1, V])`` at each step."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[:, -1].float()
        ids.append(int(change(ids, ids[len(prompt) :], scores).argmax()))
    return ids[len(prompt) :]


# --- choosing tokens ------------------------------------------------------------------------------


def test_temperatures_below_the_limit_are_greedy_and_switch_the_filters_off(client: TestClient) -> None:
    greedy = ids_of(client, max_tokens=8, **GREEDY)
    almost = {"temperature": 9e-6, "top_p": 0.1, "top_k": 7, "min_p": 0.9, "seed": 1}
    assert ids_of(client, max_tokens=8, ignore_eos=True, **almost) == greedy
    assert complete(client, 400, n=2, **almost)["param"] == "n"


def test_filters_that_leave_one_token_are_greedy_and_off_means_off(client: TestClient) -> None:
    body = {"max_tokens": 8, "ignore_eos": True, "seed": 3, "temperature": 1.5}
    greedy = ids_of(client, max_tokens=8, **GREEDY)
    for one in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert ids_of(client, **body, **one) == greedy
    plain = ids_of(client, **body)
    assert plain != greedy
    for off in ({"top_k": 0}, {"top_k": -1}, {"top_p": 1.0}, {"min_p": 0}, {"top_k": tiny_models.VOCAB}):
        assert ids_of(client, **body, **off) == plain


def test_penalties_are_those_of_their_definitions(client: TestClient, oracle: Any) -> None:
    model, tokenizer = oracle
    prompt = tokenizer("One two")["input_ids"]

    def count(factor: float, once: float) -> Callable[..., torch.Tensor]:
        def change(_: Any, output: list[int], scores: torch.Tensor) -> torch.Tensor:
            for token in set(output):  # of the output only, never of the prompt
                scores[0, token] -= once + factor * output.count(token)
            return scores

        return change

    def repetition(ids: list[int], _: Any, scores: torch.Tensor) -> torch.Tensor:
        return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.8)])(torch.tensor([ids]), scores)

    for field, value, change in (
        ("presence_penalty", 2.0, count(0, 2.0)),
        ("frequency_penalty", 1.5, count(1.5, 0)),
        ("repetition_penalty", 1.8, repetition),
    ):
        asked = {"max_tokens": 24, field: value, **GREEDY}
        assert ids_of(client, **asked) == decode(model, prompt, 24, change), field


def test_bias_is_clamped_and_its_errors_name_the_keys(client: TestClient) -> None:
    plain = ids_of(client, max_tokens=4, **GREEDY)
    assert ids_of(client, max_tokens=4, logit_bias={str(plain[0]): -1000}, **GREEDY)[0] != plain[0]
    two = {"logit_bias": {"65": 100, "66": 10_000}, "logprobs": 0, "max_tokens": 1, **GREEDY}
    own = ids_of(client, max_tokens=1, logit_bias={"65": 100, "66": 100}, **GREEDY)
    assert ids_of(client, **two) == own  # both count as 100, the likelier one wins
    error = chat(client, 400, logit_bias={"hello": 1, "5": 1})
    assert error["param"] == "logit_bias" and "hello" in error["message"]
    error = complete(client, 400, logit_bias={str(tiny_models.VOCAB): 1})
    assert "Vocabulary size" in error["message"] and str(tiny_models.VOCAB) in error["message"]


@pytest.mark.parametrize("leading", ["", " "])
def test_bad_words_are_kept_out_with_and_without_a_space(
    client: TestClient, oracle: Any, leading: str
) -> None:
    tokenizer = oracle[1]
    word = "the"
    ids = {tuple(tokenizer.encode(space + word, add_special_tokens=False)) for space in ("", " ")}
    bias = {str(i): 60 for sequence in ids for i in sequence}
    body = {"prompt": "One two", "max_tokens": 12, "logit_bias": bias, **GREEDY}
    assert word in complete(client, **body)["choices"][0]["text"]
    kept_out = ids_of(client, bad_words=[leading + word], **body)
    banned = ids if not leading else {tuple(tokenizer.encode(" the", add_special_tokens=False))}
    for sequence in banned:
        spans = zip(*(kept_out[k:] for k in range(len(sequence))), strict=False)
        assert sequence not in set(spans)
    assert complete(client, 400, bad_words=[""])["param"] == "bad_words"
    assert complete(client, 400, bad_words=["a"] * 129)["param"] == "bad_words"


def test_values_between_the_request_and_openai_come_from_the_server(make_client: Any, engine: Any) -> None:
    """Every field that a generation config may set; a null in the request is no value."""
    defaults = engine.info.default_sampling
    before = dict(defaults)
    client = make_client()
    try:
        defaults.clear()
        defaults.update(top_k=1, min_p=0.0, repetition_penalty=1.0, max_tokens=5)
        greedy = ids_of(client, max_tokens=16, **GREEDY)
        served = ids_of(client, seed=1, ignore_eos=True, temperature=None, top_k=None, max_tokens=None)
        assert served == greedy[:5]
        assert ids_of(client, seed=1, ignore_eos=True, top_k=0, max_tokens=16, temperature=2.0) != greedy
    finally:
        defaults.clear()
        defaults.update(before)


# --- stopping -------------------------------------------------------------------------------------


def test_eos_ends_the_answer_is_no_text_and_can_be_ignored(client: TestClient) -> None:
    bias = {"logit_bias": {str(EOS): 100}, "temperature": 0, "max_tokens": 4}
    for skip in (True, False):
        [choice] = complete(client, skip_special_tokens=skip, **bias)["choices"]
        assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    assert ids_of(client, ignore_eos=True, **bias) == [EOS] * 4


def test_min_tokens_holds_back_eos_and_stop_ids(client: TestClient) -> None:
    body = {
        "temperature": 0,
        "max_tokens": 8,
        "logit_bias": {str(EOS): 100, "70": 40},
        "stop_token_ids": [70],
    }
    assert ids_of(client, **body) == [EOS]
    for least in (1, 3):
        ids = ids_of(client, min_tokens=least, **body)
        assert len(ids) == least + 1 and ids[-1] == EOS and not {EOS, 70} & set(ids[:-1])
        answer = chat(client, min_tokens=least, return_token_ids=True, **body)["choices"][0]
        assert len(answer["token_ids"]) == least + 1 and answer["finish_reason"] == "stop"


def test_a_stop_ids_text_is_kept_unless_it_is_special(client: TestClient, oracle: Any) -> None:
    ids = ids_of(client, max_tokens=6, **GREEDY)
    stopped = complete(client, max_tokens=6, stop_token_ids=[ids[2]], **GREEDY)["choices"][0]
    cut = ids[: ids.index(ids[2]) + 1]
    assert stopped["text"] == oracle[1].decode(cut) and stopped["stop_reason"] == ids[2]
    special = {"max_tokens": 3, "logit_bias": {str(BOS): 100}, "stop_token_ids": [BOS], **GREEDY}
    assert complete(client, **special)["choices"][0]["text"] == ""
    assert complete(client, skip_special_tokens=False, **special)["choices"][0]["text"] == "<s>"


def test_special_tokens_are_skipped_or_shown(client: TestClient) -> None:
    body = {"max_tokens": 3, "logit_bias": {str(BOS): 100}, **GREEDY}
    for spaces in (True, False):  # the byte-level decoder puts no spaces between tokens in either case
        shown = {"skip_special_tokens": False, "spaces_between_special_tokens": spaces}
        assert complete(client, **body, **shown)["choices"][0]["text"] == "<s><s><s>"
        assert chat(client, **body, **shown)["choices"][0]["message"]["content"] == "<s><s><s>"
    assert complete(client, **body)["choices"][0]["text"] == ""


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_stop_strings_over_several_tokens_never_show(client: TestClient, path: str) -> None:
    body = {"messages": MESSAGES, "prompt": "One two", "max_tokens": 24, **GREEDY}
    del body["prompt" if path == CHAT else "messages"]
    full = texts(read_events(client.post(path, json={"stream": True, **body}).text))[0]
    stop = full[6:11]
    for kept in (False, True):
        asked = {**body, "stop": [stop], "include_stop_str_in_output": kept}
        end = full.index(stop) + len(stop) * kept
        chunks = read_events(client.post(path, json={"stream": True, **asked}).text)
        assert texts(chunks) == {0: full[:end]}
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1]["choices"][0]["stop_reason"] == stop
        [choice] = client.post(path, json=asked).json()["choices"]
        assert (choice["text"] if path == COMPLETIONS else choice["message"]["content"]) == full[:end]


# --- prompts --------------------------------------------------------------------------------------


def test_truncation_of_completions(client: TestClient, oracle: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    ids = oracle[1](text)["input_ids"]
    default = "left" if oracle[1].truncation_side == "left" else "right"
    for prompt in (text, ids):
        for side in ("left", "right", None):
            body: dict[str, Any] = {"truncate_prompt_tokens": 4, "truncation_side": side}
            [choice] = complete(client, prompt=prompt, max_tokens=1, return_token_ids=True, **body)["choices"]
            kept = ids[-4:] if (side or default) == "left" else ids[:4]
            assert choice["prompt_token_ids"] == kept
    [choice] = complete(client, prompt=[5] * 300, truncate_prompt_tokens=-1, return_token_ids=True)["choices"]
    assert len(choice["prompt_token_ids"]) == tiny_models.MAX_LEN - 1
    [choice] = complete(client, prompt=text, echo=True, truncate_prompt_tokens=3, max_tokens=0)["choices"]
    assert text.endswith(choice["text"]) if default == "left" else text.startswith(choice["text"])


def test_prompt_logprobs_are_whole_though_the_prefix_is_cached(client: TestClient, oracle: Any) -> None:
    text = "Where is the station? It is near the church, on the left side of the street. " * 2
    ids = oracle[1](text)["input_ids"]
    expected = tiny_models.logprobs(oracle[0], ids)
    for _ in range(2):
        complete(client, prompt=text, max_tokens=1)  # fills the cache
        [choice] = complete(client, prompt=text, max_tokens=1, prompt_logprobs=0)["choices"]
        first, *rest = choice["prompt_logprobs"]
        assert first is None and len(rest) == len(ids) - 1
        own = [p[str(i)]["logprob"] for p, i in zip(rest, ids[1:], strict=True)]
        assert own == pytest.approx([expected[k, i].item() for k, i in enumerate(ids[1:])], abs=1e-4)


def test_special_tokens_of_a_chat_are_the_templates_own_business(client: TestClient) -> None:
    plain = chat(client, max_tokens=1, return_token_ids=True)["prompt_token_ids"]
    tokenized = client.post("/tokenize", json={"messages": MESSAGES, "add_special_tokens": True}).json()
    asked = chat(client, max_tokens=1, return_token_ids=True, add_special_tokens=True)["prompt_token_ids"]
    assert asked == tokenized["tokens"]
    assert plain == client.post("/tokenize", json={"messages": MESSAGES}).json()["tokens"]


def test_every_role_and_null_content(client: TestClient) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "x", "name": "ada", "no_such_field": [1, {"a": 2}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "narrator", "content": [{"type": "text", "text": "later"}]},
        {"role": "user", "content": "y"},
    ]
    ids = client.post("/tokenize", json={"messages": messages}).json()["tokens"]
    text = client.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert text.startswith("System: Be brief.\nUser: x\n") and "42" in text and "later" in text
    assert chat(client, messages=messages, max_tokens=1)["choices"]
    broken = [
        *messages[:2],
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
    ]
    assert chat(client, 400, messages=broken)["param"] == "messages"


def test_arguments_of_calls_and_documents_reach_the_template_as_objects(make_client: Any) -> None:
    template = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments.a + 1 }}"
        "{% endfor %}{% endfor %}|{% for d in documents or [] %}{{ d.title }}{% endfor %}"
    )
    client = make_client(api={"chat_template": template})
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 41}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    body = {"messages": messages, "documents": [{"title": "T1"}, {"title": "T2"}]}
    ids = client.post("/tokenize", json=body).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": ids}).json()["prompt"] == "42|T1T2"
    assert chat(client, max_tokens=1, return_token_ids=True, **body)["prompt_token_ids"] == ids


def test_template_kwargs_may_say_what_fields_say(make_client: Any) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{{ documents and documents[0].title }}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    client = make_client(api={"chat_template": template})
    messages = [{"role": "user", "content": "Hi"}, {"role": "narrator", "content": "So"}]
    body = {"messages": messages, "max_tokens": 2, "return_token_ids": True, **GREEDY}
    for fields in (
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"documents": [{"title": "T"}]},
        {"documents": None, "add_generation_prompt": True},
    ):
        said = chat(client, **body, **fields)
        as_kwargs = chat(client, **body, chat_template_kwargs=fields)
        twice = chat(client, **body, **fields, chat_template_kwargs={**fields, "unused": 1})
        tokens = client.post("/tokenize", json={"messages": messages, "chat_template_kwargs": fields}).json()
        assert said["prompt_token_ids"] == tokens["tokens"]
        for same in (as_kwargs, twice):
            assert same["prompt_token_ids"] == said["prompt_token_ids"]
            assert same["choices"] == said["choices"]  # the role, too
    [choice] = chat(client, **body, chat_template_kwargs={"continue_final_message": True})["choices"]
    assert choice["message"]["role"] == "narrator"
    for kwargs, more in (
        ({"add_generation_prompt": True}, {"add_generation_prompt": False}),
        ({"documents": [{"title": "T"}]}, {"documents": []}),
        ({"documents": "T"}, {}),
        ({"continue_final_message": []}, {}),
        ({"chat_template": "x"}, {}),
        ({"tools": []}, {}),
        ({"conversation": []}, {}),
    ):
        assert chat(client, 400, chat_template_kwargs=kwargs, **more)["param"] == "chat_template_kwargs"


# --- logprobs -------------------------------------------------------------------------------------


def test_logprobs_of_listed_ids(client: TestClient, oracle: Any) -> None:
    model, tokenizer = oracle
    listed = [70, 71, 300]
    [choice] = complete(
        client,
        max_tokens=2,
        logprobs=1,
        logprob_token_ids=listed,
        return_tokens_as_token_ids=True,
        return_token_ids=True,
        **GREEDY,
    )["choices"]
    rows = tiny_models.logprobs(model, choice["prompt_token_ids"] + choice["token_ids"])
    rows = rows[len(choice["prompt_token_ids"]) - 1 :]
    for shown, row in zip(choice["logprobs"]["top_logprobs"], rows, strict=False):
        best = int(row.argmax())
        assert list(shown) == [f"token_id:{i}" for i in dict.fromkeys([best, *listed])]
        for token in listed:
            assert shown[f"token_id:{token}"] == pytest.approx(row[token].item(), abs=1e-4)
    for top in ({}, {"top_logprobs": None}, {"top_logprobs": 5}):
        answer = chat(
            client,
            max_tokens=1,
            logprobs=True,
            logprob_token_ids=[*listed, 75],
            allowed_token_ids=[75],
            **top,
            **GREEDY,
        )
        [position] = answer["choices"][0]["logprobs"]["content"]
        assert position["token"] == tokenizer.decode([75])
        assert [e["token"] for e in position["top_logprobs"]] == [
            tokenizer.decode([i]) for i in [75, *listed]
        ]
    nothing = {"echo": True, "logprobs": 1, "max_tokens": 0}
    assert complete(client, 400, logprob_token_ids=listed, **nothing)["param"] == "logprob_token_ids"
    assert chat(client, 400, logprob_token_ids=[10**6], logprobs=True)["param"] == "logprob_token_ids"
    assert chat(client, 400, logprob_token_ids=list(range(129)), logprobs=True)["param"] == (
        "logprob_token_ids"
    )


def test_zero_logprobs_show_exactly_the_sampled_token(client: TestClient) -> None:
    body = {"max_tokens": 5, "seed": 2, "temperature": 2.0, "ignore_eos": True}
    lists = complete(client, logprobs=0, **body)["choices"][0]["logprobs"]
    for token, own, shown in zip(
        lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True
    ):
        assert shown == {token: own}
    lists = complete(client, logprobs=3, return_tokens_as_token_ids=True, **body)["choices"][0]["logprobs"]
    for token, own, shown in zip(
        lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True
    ):
        assert shown[token] == own and len(shown) in (3, 4)


def test_a_greedy_token_is_told_from_another_one_of_the_same_text(client: TestClient, oracle: Any) -> None:
    """What evaluation tools take for "greedy": no candidate is likelier than the token."""
    model, tokenizer = oracle
    broken = [i for i in range(tiny_models.VOCAB) if tokenizer.decode([i]) == "\ufffd"]
    prompt = tokenizer("One two")["input_ids"]
    for token in broken[:6]:
        rows = tiny_models.logprobs(model, [*prompt, token, token])
        [choice] = complete(
            client, prompt=[*prompt, token, token], echo=True, logprobs=20, max_tokens=0, **GREEDY
        )["choices"]
        for place in (-2, -1):
            own = choice["logprobs"]["token_logprobs"][place]
            best = max(choice["logprobs"]["top_logprobs"][place].values())
            row = rows[place - 1]
            assert (own == best) == (int(row.argmax()) == token)


def test_the_server_can_show_tokens_as_ids_by_default(make_client: Any) -> None:
    client = make_client(api={"return_tokens_as_token_ids": True})
    assert complete(client, max_tokens=1, logprobs=0)["choices"][0]["logprobs"]["tokens"][0].startswith(
        "token_id:"
    )
    plain = complete(client, max_tokens=1, logprobs=0, return_tokens_as_token_ids=False)
    assert "token_id:" not in plain["choices"][0]["logprobs"]["tokens"][0]


def test_echo_of_several_sequences(client: TestClient) -> None:
    answer = complete(client, echo=True, n=2, seed=4, max_tokens=3, logprobs=1, ignore_eos=True)
    assert [c["text"].startswith("One two") for c in answer["choices"]] == [True, True]
    assert all(c["logprobs"]["token_logprobs"][0] is None for c in answer["choices"])
    assert len({c["text"] for c in answer["choices"]}) == 2
    assert answer["usage"]["completion_tokens"] == 6


# --- streams, ids, tenants ------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_continuous_usage_needs_include_usage(client: TestClient, path: str) -> None:
    body: dict[str, Any] = {"messages": MESSAGES} if path == CHAT else {"prompt": "One two"}
    body |= {"stream": True, "max_tokens": 3, **GREEDY}

    def chunks(**options: bool) -> list[dict[str, Any]]:
        return read_events(client.post(path, json={**body, "stream_options": options}).text)

    assert not any(chunk.get("usage") for chunk in chunks(continuous_usage_stats=True))
    both = chunks(include_usage=True, continuous_usage_stats=True)
    assert all(chunk["usage"] for chunk in both) and both[-1]["choices"] == []
    assert both[-1]["usage"]["completion_tokens"] == 3
    response = client.post(path, json={**body, "stream": False, "stream_options": {"include_usage": True}})
    assert response.status_code == 400 and response.json()["error"]["param"] == "stream_options"


def test_streamed_token_ids_of_a_chat(client: TestClient) -> None:
    body = {"max_tokens": 4, "return_token_ids": True, "n": 2, "seed": 1, "ignore_eos": True}
    whole = chat(client, **body)
    chunks = read_events(client.post(CHAT, json={"messages": MESSAGES, "stream": True, **body}).text)
    assert [c.get("prompt_token_ids") for c in chunks[:2]] == [whole["prompt_token_ids"], None]
    streamed: dict[int, list[int]] = {0: [], 1: []}
    for choice in (c["choices"][0] for c in chunks):
        streamed[choice["index"]] += choice.get("token_ids") or []
    assert streamed == {c["index"]: c["token_ids"] for c in whole["choices"]}


def test_ids_of_completions(client: TestClient) -> None:
    assert complete(client, max_tokens=1, request_id="mine")["id"] == "cmpl-mine"
    headed = client.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 1}, headers={"X-Request-Id": "h"})
    assert headed.json()["id"] == "cmpl-h"
    ids = {complete(client, max_tokens=1)["id"] for _ in range(3)}
    assert len(ids) == 3
    assert complete(client, 400, request_id="x" * 129)["param"] == "request_id"


@pytest.mark.parametrize("salt", ["a@b", "a/b", "a\\b", "a\0b", "", "x" * 129])
def test_salts_that_are_none(client: TestClient, salt: str) -> None:
    assert complete(client, 400, cache_salt=salt)["param"] == "cache_salt"
    assert complete(client, cache_salt="x" * 128, max_tokens=1)["choices"]


# --- unknown fields -------------------------------------------------------------------------------


def test_strict_params_refuse_what_nobody_knows(make_client: Any) -> None:
    strict = make_client(api={"strict_params": True})
    for ask in (complete, chat):
        error = ask(strict, 400, temprature=0.5, max_tokens=1, another="x")
        assert error["param"] == "another" and "another, temprature" in error["message"]
        error = ask(strict, 400, stream=True, stream_options={"include_usage": True, "more": 1})
        assert error["param"] == "stream_options.more"
        assert ask(strict, max_tokens=1, user="u", store=False, metadata={"a": "b"}, top_k=5)["choices"]
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        response = strict.post(path, json={**body, "promt": 1})
        assert response.status_code == 400 and response.json()["error"]["param"] == "promt"
