"""Datasets and arrivals: lengths in tokens, shared prefixes, traces, and the statistics of the gaps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from api.bench.texts import TextMaker
from api.bench.workload import ArrivalConfig, DatasetConfig, arrival_times, make_workload
from vllm_jax.demo import demo_model_path
from vllm_jax.errors import ConfigError
from vllm_jax.tokenizer.loader import load_tokenizer

TOKENIZER = load_tokenizer(demo_model_path())
TEXTS = TextMaker(TOKENIZER)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), length=st.integers(2, 300), prefix=st.integers(0, 100))
def test_random_prompts_have_exactly_the_wanted_tokens(seed: int, length: int, prefix: int) -> None:
    data = DatasetConfig(num_prompts=3, seed=seed, random_input_len=length, random_prefix_len=prefix)
    items = make_workload(data, ArrivalConfig(), TEXTS)
    ids = [TOKENIZER.encode(item.prompt) for item in items]
    assert [len(one) for one in ids] == [item.prompt_tokens for item in items] == [length + prefix] * 3
    if prefix:
        assert all(one[:prefix] == ids[0][:prefix] for one in ids)
    if length > 20:
        assert len({tuple(one) for one in ids}) == 3
    assert items == make_workload(data, ArrivalConfig(), TEXTS), "a function of the seed"
    assert items != make_workload(replace(data, seed=seed + 1), ArrivalConfig(), TEXTS)


def test_lengths_vary_within_the_range() -> None:
    data = DatasetConfig(num_prompts=60, random_input_len=40, random_output_len=20, random_range_ratio=0.5)
    items = make_workload(data, ArrivalConfig(), TEXTS)
    inputs, outputs = [i.prompt_tokens or 0 for i in items], [i.max_tokens for i in items]
    assert 20 <= min(inputs) < 28 and 52 < max(inputs) <= 60
    assert 10 <= min(outputs) < 14 and 26 < max(outputs) <= 30


def test_prefixes_repeat_equally_often() -> None:
    data = DatasetConfig(
        dataset_name="prefix_repetition",
        num_prompts=30,
        prefix_repetition_prefix_len=24,
        prefix_repetition_suffix_len=10,
        prefix_repetition_num_prefixes=3,
    )
    ids = [TOKENIZER.encode(item.prompt) for item in make_workload(data, ArrivalConfig(), TEXTS)]
    assert {len(one) for one in ids} == {34}
    heads = [tuple(one[:24]) for one in ids]
    assert sorted(heads.count(head) for head in set(heads)) == [10, 10, 10]
    assert len({tuple(one) for one in ids}) == 30


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_are_gamma_distributed(burstiness: float) -> None:
    times = arrival_times(np.random.default_rng(5), 20_001, 8.0, burstiness)
    gaps = np.diff(times)
    assert times[0] == 0 and (gaps >= 0).all()
    assert stats.kstest(gaps, stats.gamma(burstiness, scale=1 / (8 * burstiness)).cdf).pvalue > 0.001
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_no_rate_is_all_at_once() -> None:
    assert arrival_times(np.random.default_rng(0), 4, math.inf, 1.0) == [0.0] * 4


def write_trace(path: Path, *rows: object) -> DatasetConfig:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return DatasetConfig(dataset_name="trace", trace_path=str(path), trace_block_size=16)


def test_a_trace_keeps_its_times_lengths_and_shared_blocks(tmp_path: Path) -> None:
    data = write_trace(
        tmp_path / "t.jsonl",
        {"timestamp": 3000, "input_length": 40, "output_length": 7, "hash_ids": [1, 2, 3]},
        {"timestamp": 1000, "prompt": "Good morning.", "max_tokens": 3},
        {"timestamp": 2000, "input_length": 50, "output_length": 9, "hash_ids": [1, 2, 9, 4]},
    )
    data = replace(data, trace_time_unit="ms", trace_speedup=2.0)
    first, second, third = make_workload(data, ArrivalConfig(), TEXTS)
    assert [first.at, second.at, third.at] == [0.0, 0.5, 1.0]
    assert (first.prompt, first.max_tokens) == ("Good morning.", 3)
    assert (second.prompt_tokens, second.max_tokens) == (50, 9)
    assert (third.prompt_tokens, third.max_tokens) == (40, 7)
    one, other = TOKENIZER.encode(second.prompt), TOKENIZER.encode(third.prompt)
    assert one[:32] == other[:32] and one[32:40] != other[32:40]
    assert [i.at for i in make_workload(data, ArrivalConfig(request_rate=1e9), TEXTS)] != [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"timestamp": 1}], "line 1"),
        ([{"prompt": "a"}, {"prompt": 3}], "line 2"),
        ([{"prompt": "a", "output_length": 0}], "output_length"),
        ([[1, 2]], "line 1"),
        ([], "no requests"),
    ],
)
def test_bad_traces_are_named(tmp_path: Path, rows: list[object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_workload(write_trace(tmp_path / "t.jsonl", *rows), ArrivalConfig(), TEXTS)


@pytest.mark.parametrize(
    ("data", "arrival", "says"),
    [
        ({"num_prompts": 0}, {}, "--num-prompts"),
        ({"random_range_ratio": 1.0}, {}, "--random-range-ratio"),
        ({"dataset_name": "trace"}, {}, "--trace-path"),
        ({"trace_path": "x"}, {}, "--dataset-name trace"),
        ({}, {"request_rate": 0.0}, "--request-rate"),
        ({}, {"request_rate": math.nan}, "--request-rate"),
        ({}, {"burstiness": 0.0}, "--burstiness"),
        ({}, {"max_concurrency": 0}, "--max-concurrency"),
    ],
)
def test_settings_out_of_range_are_named(
    data: dict[str, object], arrival: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        make_workload(DatasetConfig(**data), ArrivalConfig(**arrival), TEXTS)  # type: ignore[arg-type]


def test_without_a_tokenizer_lengths_are_words() -> None:
    texts = TextMaker(None)
    [item] = make_workload(DatasetConfig(num_prompts=1, random_input_len=12), ArrivalConfig(), texts)
    assert not texts.exact and item.prompt_tokens is None and len(item.prompt.split()) == 12


def test_prompts_of_a_jsonl_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One"}\n\n{"prompt": "Two", "output_tokens": 7}\n{"prompt": "Three"}\n')
    data = DatasetConfig(dataset_name="custom", dataset_path=str(path), custom_output_len=5)
    kept = make_workload(replace(data, disable_shuffle=True, num_prompts=2), ArrivalConfig(), TEXTS)
    assert [(item.prompt, item.max_tokens) for item in kept] == [("One", 5), ("Two", 7)]
    shuffled = make_workload(data, ArrivalConfig(), TEXTS)
    assert sorted(item.prompt for item in shuffled) == ["One", "Three", "Two"]
    assert shuffled == make_workload(data, ArrivalConfig(), TEXTS), "a function of the seed"
    for wrong, says in (("{}", "line 1"), ("[1]", "line 1"), ('{"prompt": 3}', "text"), ("", "no requests")):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=says):
            make_workload(data, ArrivalConfig(), TEXTS)


def test_conversations_of_sharegpt(tmp_path: Path) -> None:
    path = tmp_path / "conversations.json"
    turns = [
        ["What is the name of this town?", "It is called Rome, I think."],
        ["Hi", "This prompt has too few tokens to be of use."],
        ["This one has nobody who answers it."],
        ["word " * 3000, "This prompt is too long to be of use."],
    ]
    path.write_text(json.dumps([{"conversations": [{"from": "x", "value": v} for v in t]} for t in turns]))
    data = DatasetConfig(dataset_name="sharegpt", dataset_path=str(path))
    [item] = make_workload(data, ArrivalConfig(), TEXTS)
    assert (item.prompt, item.max_tokens) == (turns[0][0], len(TOKENIZER.encode(turns[0][1])))
    [item] = make_workload(replace(data, sharegpt_output_len=3), ArrivalConfig(), TEXTS)
    assert item.max_tokens == 3
    [item] = make_workload(data, ArrivalConfig(), TextMaker(None))
    assert item.max_tokens == 6
    for wrong in ("{}", "[1]", "nothing", '{"a": 1}'):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="--dataset-path"):
            make_workload(data, ArrivalConfig(), TEXTS)
