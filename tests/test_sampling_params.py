import dataclasses
import math

import numpy as np
import pytest

from vllm_jax.errors import InvalidRequestError
from vllm_jax.sampling_params import SamplingParams

NAN, INF = math.nan, math.inf

BAD = [
    *[("n", v) for v in (0, -1, 129, 10**6, 10**18, 2**63, 1.0, True, "2", None)],
    *[("temperature", v) for v in (-0.1, 2.1, NAN, INF, -INF, "1", True, None, 10**400)],
    *[("top_p", v) for v in (0, 0.0, -0.5, 1.01, NAN, INF, True, "x", [])],
    *[("top_k", v) for v in (-2, 2**31, 2**63, 1.5, False, NAN, "3")],
    *[("min_p", v) for v in (-0.01, 1.01, NAN, INF, True)],
    *[("presence_penalty", v) for v in (-2.01, 2.01, NAN, INF, True, "a")],
    *[("frequency_penalty", v) for v in (-2.01, 2.01, NAN, -INF, True, {})],
    *[("repetition_penalty", v) for v in (0, -1.0, NAN, INF, 1e-40, 1e39, True, "1")],
    *[("seed", v) for v in (2**63, -(2**63) - 1, 10**5000, 1.5, True, "7")],
    *[("max_tokens", v) for v in (0, -1, 2**63, 1.5, True, "5")],
    *[("min_tokens", v) for v in (-1, 17, 2**63, 0.5, True, None)],
    *[("stop", v) for v in ("", [""], ["a"] * 5, ["a", 3], 7, {"a": 1}, b"a", ["x" * 1025])],
    *[("stop_token_ids", v) for v in ([-1], [2**31], [2**63], [1.5], [True], "12", 5, {3: 4})],
    *[("logprobs", v) for v in (-2, 1.5, True, "3", 2**63)],
    *[("prompt_logprobs", v) for v in (-2, 1.5, False, "3", 2**63)],
    *[("logprob_token_ids", v) for v in ([-1], [True], list(range(129)), "abc", 3)],
    *[("allowed_token_ids", v) for v in ([], [-1], [2**31], ["a"], [False], 3)],
    *[("bad_words", v) for v in ([""], ["a", ""], ["a"] * 129, [1], "abc", 4, ["x" * 1025])],
    *[
        ("logit_bias", v)
        for v in (
            [1, 2],
            "ab",
            {"a": 1},
            {"1.5": 1},
            {"-1": 1},
            {-1: 1},
            {"1_0": 1},
            {True: 1},
            {2**31: 1},
            {"9" * 5000: 1},
            {1: NAN},
            {1: INF},
            {1: "x"},
            {1: True},
            {1: None},
            {"1": 1, "01": 2},
            dict.fromkeys(range(1025), 1.0),
        )
    ],
    *[(name, v) for name in ("ignore_eos", "skip_special_tokens", "detokenize") for v in (1, None, "true")],
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{f}-{i}" for i, (f, _) in enumerate(BAD)])
def test_bad_value_is_refused_by_name(field, value):
    extra = {"logprobs": 1} if field == "logprob_token_ids" else {}
    with pytest.raises(InvalidRequestError) as error:
        SamplingParams(**{field: value, **extra})
    assert error.value.param == field
    assert field in str(error.value)
    assert len(str(error.value)) < 300


def test_defaults_and_keyword_only():
    p = SamplingParams()
    assert (p.temperature, p.max_tokens, p.n, p.top_k, p.seed) == (1.0, 16, 1, 0, None)
    assert not p.greedy and not p.needs_full_sampler and not p.needs_host_tokens and not p.uses_penalties
    with pytest.raises(TypeError):
        SamplingParams(0.5)
    with pytest.raises(TypeError):
        SamplingParams(best_of=3)


@pytest.mark.parametrize(
    ("value", "word"), [(2**63, "less_than_equal"), (-(2**63) - 1, "greater_than_equal")]
)
def test_seed_out_of_range_names_the_constraint(value, word):
    with pytest.raises(InvalidRequestError, match=word):
        SamplingParams(seed=value)


def test_edges_are_accepted():
    SamplingParams(n=128, temperature=2, top_p=1, top_k=2**31 - 1, min_p=1, max_tokens=None, min_tokens=10**6)
    SamplingParams(presence_penalty=-2, frequency_penalty=2, repetition_penalty=1e-6, min_tokens=16)
    for seed in (0, -1, -(2**63), 2**63 - 1):
        assert SamplingParams(seed=seed).seed == seed
    SamplingParams(stop=["a"] * 4, bad_words=["a"] * 128, logprobs=-1, prompt_logprobs=0)


def test_values_are_normalised():
    p = SamplingParams(
        top_k=-1,
        temperature=1,
        stop="END",
        stop_token_ids=(5, 5, np.int64(6)),
        logit_bias={"7": 250, 8: -1000, 9: np.float32(0.5)},
        allowed_token_ids=[3, 3, 1],
    )
    assert p.top_k == 0 and isinstance(p.temperature, float)
    assert p.stop == ["END"] and p.stop_token_ids == [5, 6] and p.allowed_token_ids == [3, 1]
    assert p.logit_bias == {7: 100.0, 8: -100.0, 9: 0.5}
    assert SamplingParams(stop=None, stop_token_ids=None, logit_bias=None, bad_words=None) == SamplingParams()
    assert dataclasses.replace(p, n=2).stop == ["END"]


@pytest.mark.parametrize("temperature", [0, 0.0, 9e-6])
def test_greedy_switches_the_filters_off(temperature):
    p = SamplingParams(temperature=temperature, top_p=0.5, top_k=7, min_p=0.2)
    assert p.greedy
    assert (p.temperature, p.top_p, p.top_k, p.min_p) == (0.0, 1.0, 0, 0.0)
    with pytest.raises(InvalidRequestError) as error:
        SamplingParams(temperature=temperature, n=2)
    assert error.value.param == "n"
    assert not SamplingParams(temperature=1e-5, n=2).greedy


def test_combinations_that_contradict():
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        SamplingParams(min_tokens=5, max_tokens=4)
    with pytest.raises(InvalidRequestError, match="logprobs"):
        SamplingParams(logprob_token_ids=[1])
    with pytest.raises(InvalidRequestError, match="detokenize"):
        SamplingParams(stop=["x"], detokenize=False)


@pytest.mark.parametrize(
    "change",
    [
        {"logprobs": 0},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"repetition_penalty": 1.1},
        {"logit_bias": {1: 1}},
        {"allowed_token_ids": [1]},
        {"bad_words": ["x"]},
        {"min_tokens": 1},
    ],
)
def test_what_needs_the_full_sampler(change):
    p = SamplingParams(**change)
    assert p.needs_full_sampler
    assert p.uses_penalties == any("penalty" in name for name in change)
    assert p.needs_host_tokens == ("bad_words" in change)
    assert p.constrains_tokens == bool(change.keys() & {"allowed_token_ids", "bad_words", "min_tokens"})


def test_what_does_not_need_the_full_sampler():
    assert not SamplingParams(
        temperature=0.3, top_p=0.5, top_k=3, min_p=0.1, seed=1, stop="a", prompt_logprobs=3, ignore_eos=True
    ).needs_full_sampler


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"stop_token_ids": [99, 100]}, "stop_token_ids"),
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"allowed_token_ids": [2**31 - 1]}, "allowed_token_ids"),
        ({"logprobs": 1, "logprob_token_ids": [100]}, "logprob_token_ids"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ],
)
def test_model_limits(change, field):
    with pytest.raises(InvalidRequestError) as error:
        SamplingParams(**change).validate_for_model(100, 20)
    assert error.value.param == field
    if not field.endswith("logprobs"):
        assert "Vocabulary size: 100" in str(error.value)


def test_model_limits_that_hold():
    SamplingParams(
        logprobs=20, prompt_logprobs=0, stop_token_ids=[0, 99], logit_bias={99: 1}, logprob_token_ids=[99]
    ).validate_for_model(100, 20)
    SamplingParams(logprobs=-1, prompt_logprobs=100).validate_for_model(100, -1)
    SamplingParams(logprobs=-1, prompt_logprobs=-1).validate_for_model(100, 100)
    with pytest.raises(InvalidRequestError, match="at most 100"):
        SamplingParams(logprobs=101).validate_for_model(100, -1)


@pytest.mark.parametrize(
    "change", [{"n": 10**18}, {"logit_bias": dict.fromkeys(range(10**5), 1)}, {"stop": ["a"] * 10**5}]
)
def test_hostile_sizes_are_refused_in_few_words(change):
    with pytest.raises(InvalidRequestError) as error:
        SamplingParams(**change)
    assert len(str(error.value)) < 200
