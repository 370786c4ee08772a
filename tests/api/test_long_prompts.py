"""Texts far above the context that are to be truncated: the tokens are those of the whole text."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from transformers import AutoTokenizer

from api.protocol.completions import CompletionRequest
from api.server_config import ApiConfig
from api.serving import prompts
from api.serving.prompts import PromptMaker

WORDS = [
    "uno",
    "due",
    "perché",
    "station",
    "The",
    "quick",
    "日本",
    "a",
    "42",
    "\n",
    "\n\n",
    "  ",
    "…",
    "it's",
]


def text(length: int) -> str:
    rng = random.Random(0)
    return " ".join(rng.choice(WORDS) for _ in range(length))


def ids(client: TestClient, path: str, **body: Any) -> list[int]:
    asked = {"max_tokens": 1, "return_token_ids": True, **body}
    response = client.post(path, json=asked)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["prompt_token_ids"] if "messages" in body else answer["choices"][0]["prompt_token_ids"]


@pytest.mark.parametrize("whole", [1_000, 1 << 20])
def test_the_kept_tokens_are_those_of_the_whole_text(
    client: TestClient, mpt_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    """Whether all of the text is read, or only a part."""
    monkeypatch.setattr(prompts, "_WHOLE_CHARS", whole)
    prompt = text(150_000)
    expected = AutoTokenizer.from_pretrained(mpt_checkpoint)(prompt)["input_ids"]
    for limit, kept in ((7, 7), (-1, 255)):
        for side, tokens in (("left", expected[-kept:]), ("right", expected[:kept])):
            asked = {"truncate_prompt_tokens": limit, "truncation_side": side}
            assert ids(client, "/v1/completions", prompt=prompt, **asked) == tokens
    messages = [{"role": "user", "content": prompt}]
    rendered = "\nAssistant:"
    chat = ids(
        client, "/v1/chat/completions", messages=messages, truncate_prompt_tokens=9, truncation_side="left"
    )
    assert client.post("/detokenize", json={"tokens": chat}).json()["prompt"].endswith(rendered)
    refused = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "input_tokens"


class Words:
    """A tokenizer that drops spaces: a word is a token, and nothing else is."""

    max_token_id = 0
    truncation_side = "left"

    def __init__(self) -> None:
        self.read: list[int] = []

    def id_to_piece(self, token_id: int) -> str:
        return "1234"

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.read.append(len(text))
        return [int(word) for word in text.split()]


def truncated(tokenizer: Any, prompt: str, **fields: Any) -> list[int]:
    maker = PromptMaker(tokenizer, None, ApiConfig(), max_model_len=100)
    try:
        [made] = asyncio.run(maker.completion(CompletionRequest(prompt=prompt, **fields)))
    finally:
        maker.close()
    return made.token_ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_more_is_read_than_is_needed(monkeypatch: pytest.MonkeyPatch, side: Any) -> None:
    monkeypatch.setattr(prompts, "_WHOLE_CHARS", 1_000)
    numbers = list(range(1000, 9000))
    prompt = " ".join(map(str, numbers))
    fields = {"truncate_prompt_tokens": 20, "truncation_side": side}
    tokenizer = Words()
    kept = numbers[-20:] if side == "left" else numbers[:20]
    assert truncated(tokenizer, prompt, **fields) == kept and sum(tokenizer.read) <= 1_600
    spaces = " " * 20_000
    prompt = f"{prompt}{spaces}7" if side == "left" else f"7{spaces}{prompt}"
    kept = [*kept[1:], 7] if side == "left" else [7, *kept[:-1]]
    assert truncated(tokenizer, prompt, **fields) == kept and max(tokenizer.read) <= len(prompt)
    short = " ".join(["5"] * 3) + spaces  # the whole text has fewer tokens than are kept
    assert truncated(tokenizer, short, **fields) == [5, 5, 5]
