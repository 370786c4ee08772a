"""The figures of a run, against numpy and against runs whose times were made up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bench.client import Measurement
from api.bench.statistics import Distribution, Objectives, most_in_flight, summarise
from api.bench.workload import WorkItem
from vllm_jax.errors import ConfigError

SECONDS = st.floats(0, 1e4, allow_nan=False)


@given(st.lists(SECONDS, min_size=1, max_size=50), st.lists(st.floats(0, 100), max_size=5))
def test_distributions_are_numpys(seconds: list[float], percentiles: list[float]) -> None:
    got = Distribution.of(seconds, percentiles)
    ms = np.array(seconds) * 1000
    want = (len(ms), np.mean(ms), np.median(ms), np.std(ms))
    assert (got.count, got.mean, got.median, got.std) == pytest.approx(want)
    for p in percentiles:
        assert got.percentiles[p] == pytest.approx(np.quantile(ms, p / 100))


def test_nothing_measured_is_zero() -> None:
    assert Distribution.of([], [50]) == Distribution(0, 0, 0, 0, {50: 0})


def request(start: float, times: list[float], *, tokens: int | None = None, asked: int = 3) -> Measurement:
    return Measurement(
        WorkItem("p", asked, prompt_tokens=5),
        start=start,
        end=times[-1] if times else start,
        token_times=times,
        prompt_tokens=5,
        completion_tokens=len(times) if tokens is None else tokens,
        error=None if times else "HTTP 503: busy",
    )


def test_a_run_by_hand() -> None:
    runs = [request(0, [1, 1.5, 2]), request(1, [1.25, 1.5, 4]), request(2, [])]
    got = summarise(runs, 4.0, percentiles=[50], objectives=Objectives.parse(["ttft:500", "e2e:3500"]))
    assert (got.completed, got.failed, got.errors) == (2, 1, ["HTTP 503: busy"])
    assert (got.total_input_tokens, got.total_output_tokens) == (10, 6)
    assert (got.request_throughput, got.output_throughput, got.total_token_throughput) == (0.5, 1.5, 4.0)
    assert got.metrics["ttft"].mean == 625
    assert got.metrics["tpot"].mean == pytest.approx((500 + 1375) / 2)
    assert got.metrics["itl"].mean == pytest.approx(np.mean([500, 500, 250, 2500]))
    assert got.metrics["e2el"].percentiles[50] == 2500
    assert got.goodput == 0.25, "only the second one keeps to both"
    assert got.max_in_flight == 2
    flat = got.as_json()
    assert flat["mean_ttft_ms"] == 625 and flat["p50_e2el_ms"] == 2500 and flat["completed"] == 2


def test_token_counts_are_checked() -> None:
    runs = [
        request(0, [1, 2, 3]),
        request(0, [1, 2]),  # one token short
        request(0, [1, 2, 3], tokens=2),  # more chunks than tokens, and short
        request(0, [1], tokens=3),  # tokens that came in one chunk are in order
    ]
    runs[0].completion_tokens = None
    runs[0].prompt_tokens = 6
    counts = summarise(runs, 1.0, exact_prompts=True).counts
    assert (counts.wrong, counts.more_chunks_than_tokens) == (2, 1)
    assert (counts.without_usage, counts.wrong_prompt) == (1, 1)
    assert len(counts.complaints) == 4
    assert summarise(runs, 1.0, ignore_eos=False).counts.wrong == 0


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=30))
def test_most_in_flight_is_that_of_the_slow_way(spans: list[tuple[float, float]]) -> None:
    runs = [Measurement(WorkItem("", 1), start=min(span), end=max(span)) for span in spans]
    busy = [sum(m.start <= at.start < m.end for m in runs) for at in runs]
    assert most_in_flight(runs) >= max(busy, default=0)
    assert most_in_flight(runs) <= len(runs)


@pytest.mark.parametrize("word", ["ttft", "ttft:x", "itl:5", "ttft:-1", ":3"])
def test_bad_objectives_are_named(word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        Objectives.parse([word])
