"""The metrics' names, values and text format, read back with prometheus_client's own parser."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllm_jax.metrics import CONTENT_TYPE, Metrics
from vllm_jax.outputs import RequestMetrics


def read(metrics: Metrics) -> dict[str, float]:
    """Sample name -> value, summed over labels."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.expose().decode()):
        for sample in family.samples:
            if sample.name.startswith("vllm:") and sample.name != "vllm:lora_requests_info":
                assert sample.labels.get("engine") == "0"
            values[sample.name] = values.get(sample.name, 0) + sample.value
    return values


def test_text_format_and_labels() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
    text = Metrics("org/name").expose().decode()
    assert 'vllm:num_requests_running{engine="0",model_name="org/name"} 0.0' in text


def test_steps_and_tokens() -> None:
    metrics = Metrics("m")
    metrics.set_cache_config(block_size=16, num_gpu_blocks=8)
    metrics.on_step(running=3, waiting=2, kv_cache_usage=0.25, num_tokens=40, preemptions=1)
    metrics.on_step(running=1, waiting=0, kv_cache_usage=0.5, num_tokens=0)
    metrics.on_prefix_lookup(queries=32, hits=16)
    metrics.on_first_token(seconds=0.2, prompt_tokens=32, cached_tokens=16)
    metrics.on_generated(1, {})
    metrics.on_generated(4, {0.01: 3, 9.0: 1})
    metrics.on_compilation(5)
    values = read(metrics)
    expected = {
        "vllm:num_requests_running": 1,
        "vllm:num_requests_waiting": 0,
        "vllm:num_requests_waiting_by_reason": 0,
        "vllm:kv_cache_usage_perc": 0.5,
        "vllm:num_preemptions_total": 1,
        "vllm:iteration_tokens_total_count": 1,
        "vllm:iteration_tokens_total_sum": 40,
        "vllm:prefix_cache_queries_total": 32,
        "vllm:prefix_cache_hits_total": 16,
        "vllm:prompt_tokens_total": 32,
        "vllm:prompt_tokens_cached_total": 16,
        "vllm:generation_tokens_total": 5,
        "vllm:time_to_first_token_seconds_sum": 0.2,
        "vllm:inter_token_latency_seconds_count": 4,
        "vllm:inter_token_latency_seconds_sum": 9.03,
        "vllm:compilations_total": 5,
        "vllm:cache_config_info": 1,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_a_finished_request_has_all_durations() -> None:
    metrics = Metrics("m")
    times = RequestMetrics(
        arrival_time=10.0,
        first_scheduled_time=11.0,
        first_token_time=13.0,
        last_token_time=17.0,
        finished_time=17.0,
        num_preemptions=2,
    )
    metrics.on_request_finished(
        times, prompt_tokens=20, cached_tokens=16, generation_tokens=[5, 3], max_tokens=5
    )
    metrics.on_sequence_finished("length")
    values = read(metrics)
    expected = {
        "vllm:e2e_request_latency_seconds_sum": 7,
        "vllm:request_queue_time_seconds_sum": 1,
        "vllm:request_inference_time_seconds_sum": 6,
        "vllm:request_prefill_time_seconds_sum": 2,
        "vllm:request_decode_time_seconds_sum": 4,
        "vllm:request_time_per_output_token_seconds_sum": 1,
        "vllm:request_prompt_tokens_sum": 20,
        "vllm:request_prefill_kv_computed_tokens_sum": 4,
        "vllm:request_generation_tokens_sum": 8,
        "vllm:request_max_num_generation_tokens_sum": 5,
        "vllm:request_params_n_sum": 2,
        "vllm:request_params_max_tokens_sum": 5,
        "vllm:request_num_preemptions_sum": 2,
        "vllm:request_success_total": 1,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_a_request_aborted_in_the_queue_has_no_stages() -> None:
    metrics = Metrics("m")
    times = RequestMetrics(arrival_time=1.0, finished_time=2.0)
    metrics.on_request_finished(times, prompt_tokens=4, cached_tokens=0, generation_tokens=[0], max_tokens=7)
    values = read(metrics)
    assert values["vllm:e2e_request_latency_seconds_count"] == 1
    for stage in ("queue", "inference", "prefill", "decode"):
        assert values[f"vllm:request_{stage}_time_seconds_count"] == 0
    assert values["vllm:request_params_max_tokens_sum"] == 7


def test_what_the_engine_does_not_have_has_series_that_say_so() -> None:
    text = Metrics("m").expose().decode()
    for state, value in (("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)):
        labels = f'engine="0",model_name="m",sleep_state="{state}"'
        assert f"vllm:engine_sleep_state{{{labels}}} {value}" in text
    assert 'vllm:lora_requests_info{max_lora="0",running_lora_adapters="",waiting_lora_adapters=""} 1' in text


def test_two_engines_do_not_share_series() -> None:
    one, two = Metrics("a"), Metrics("b")
    one.on_compilation()
    assert read(one)["vllm:compilations_total"] == 1 and read(two)["vllm:compilations_total"] == 0


def test_http_answers() -> None:
    metrics = Metrics("m")
    metrics.on_http(method="POST", handler="/v1/completions", status=404, seconds=0.5)
    text = metrics.expose().decode()
    assert 'http_requests_total{handler="/v1/completions",method="POST",status="4xx"} 1.0' in text
    assert read(metrics)["http_request_duration_seconds_sum"] == 0.5
