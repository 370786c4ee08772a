"""Offsets of tokens are positions in the text that is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from api.serving.text_offsets import TextOffsets, prompt_offsets
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.tokenizer.base import Tokenizer
from vllm_jax.tokenizer.loader import load_tokenizer

TEXT = "a😀b perché"


@pytest.fixture
def tokenizer(mpt_checkpoint: Path) -> Tokenizer:
    return load_tokenizer(mpt_checkpoint)


def test_characters_in_parts(tokenizer: Tokenizer) -> None:
    emoji = tokenizer.encode("😀")
    assert len(emoji) == 3
    whole = TextOffsets(tokenizer, [5], SamplingParams())
    assert whole.push([*emoji, *emoji]) == [0, 0, 0, 1, 1, 1]
    pieces = TextOffsets(tokenizer, [5], SamplingParams(), start=10)
    assert [pieces.push([token]) for token in emoji + emoji] == [[10]] * 3 + [[11]] * 3


def test_a_character_that_the_prompt_began(tokenizer: Tokenizer) -> None:
    first, *rest = tokenizer.encode("😀")
    [letter] = tokenizer.encode("a")
    assert TextOffsets(tokenizer, [first], SamplingParams()).push([*rest, letter, letter]) == [0, 0, 1, 2]


def test_special_tokens_have_a_place_only_where_they_are_shown(tokenizer: Tokenizer) -> None:
    [special, *_] = sorted(tokenizer.special_token_ids)
    [letter] = tokenizer.encode("a")
    width = len(tokenizer.decode([special], skip_special_tokens=False))
    for skip, place in ((True, 0), (False, width)):
        params = SamplingParams(skip_special_tokens=skip)
        assert TextOffsets(tokenizer, [], params).push([special, letter]) == [0, place]


def test_without_text_and_behind_a_stop_string(tokenizer: Tokenizer) -> None:
    assert TextOffsets(None, [1], SamplingParams()).push([1, 2]) == [0, 0]
    ids = tokenizer.encode("Hello there")
    assert max(TextOffsets(tokenizer, [], SamplingParams()).push(ids, end=2)) == 2


def added(tokens: list[str]) -> list[dict[str, object]]:
    return [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokens]


@pytest.mark.parametrize(("before", "after"), [(["<s>"], []), (["<s>"], ["</s>"]), ([], ["</s>"])])
@pytest.mark.parametrize("text", [TEXT, "<s>" + TEXT])
def test_tokens_that_the_tokenizer_adds_are_no_text(
    tmp_path: Path, mpt_checkpoint: Path, before: list[str], after: list[str], text: str
) -> None:
    shutil.copy(mpt_checkpoint / "tokenizer_config.json", tmp_path)
    settings = json.loads((mpt_checkpoint / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in settings["added_tokens"]}
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*added(before), {"Sequence": {"id": "A", "type_id": 0}}, *added(after)],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in [*before, *after]
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    bare = tokenizer.encode(text, add_special_tokens=False)
    own = prompt_offsets(tokenizer, bare, text)
    assert [text[a:b] for a, b in zip(own, [*own[1:], len(text)], strict=True) if a < b] == [
        tokenizer.decode(group, skip_special_tokens=False) for group in characters(tokenizer, bare)
    ]
    expected = [0] * len(before) + own + [len(text)] * len(after)
    assert prompt_offsets(tokenizer, tokenizer.encode(text), text) == expected


def characters(tokenizer: Tokenizer, ids: list[int]) -> list[list[int]]:
    """The ids in the smallest groups that are whole characters."""
    groups: list[list[int]] = [[]]
    for token in ids:
        groups[-1].append(token)
        if "\ufffd" not in tokenizer.decode(groups[-1], skip_special_tokens=False):
            groups.append([])
    return groups[:-1]


def test_a_prompt_that_its_tokens_do_not_spell_has_offsets_inside_it(tokenizer: Tokenizer) -> None:
    offsets = prompt_offsets(tokenizer, tokenizer.encode(TEXT), "abc")
    assert offsets == sorted(offsets) and max(offsets) <= 3
