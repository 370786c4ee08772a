"""Logs, traces and metrics of a real server, held against what its clients saw."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from server_process import Server

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(ThreadingHTTPServer):
    """An OTLP collector that keeps the spans it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Export)
        self.spans: list = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class _Export(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_tokens_of_steps_are_those_of_prompts_and_answers(server: Server) -> None:
    name = "vllm:iteration_tokens_total_sum"
    server.wait_until_idle()
    before = server.metric(name)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    used = 0
    for words in (1, 30):  # in one step, and in several
        answer = client.completions.create(
            model="tiny",
            prompt="one more " * words,
            max_tokens=9,
            extra_body={"ignore_eos": True, "cache_salt": f"steps-{words}"},
        )
        assert answer.usage is not None
        used += answer.usage.total_tokens
    server.wait_until_idle()
    assert server.metric(name) - before == used


def test_the_limit_of_a_request_without_one_is_what_the_context_leaves(server: Server) -> None:
    name = "vllm:request_params_max_tokens_sum"
    with server.client() as client:
        server.wait_until_idle()
        before = server.metric(name)
        answer = client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}]}
        )
        server.wait_until_idle()
        [model, *_] = client.get("/v1/models").json()["data"]
        room = model["max_model_len"] - answer.json()["usage"]["prompt_tokens"]
        assert server.metric(name) - before == room
        client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3})
        server.wait_until_idle()
        assert server.metric(name) - before == room + 3


def test_logs_traces_and_metrics_tell_what_clients_saw(start_server, collector: Collector) -> None:
    server = start_server(
        "--log-format=json", f"--otlp-traces-endpoint={collector.url}", "--enable-log-requests"
    )
    prompt_tokens = completion_tokens = 0
    with server.client() as client:
        for number in range(3):
            answer = client.post(
                "/v1/completions",
                json={
                    "prompt": "hello " * (number + 1),
                    "max_tokens": 4 + number,
                    "n": 2,
                    "ignore_eos": True,
                },
                headers={
                    "X-Request-Id": f"mine-{number}",
                    "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01",
                },
            )
            usage = answer.json()["usage"]
            prompt_tokens += usage["prompt_tokens"]
            completion_tokens += usage["completion_tokens"]
        refused = client.post("/v1/completions", json={"prompt": "", "max_tokens": 1})
        assert refused.status_code == 400
    server.wait_until_idle()
    assert server.metric("vllm:prompt_tokens_total") == prompt_tokens
    assert server.metric("vllm:generation_tokens_total") == completion_tokens
    for histogram in ("e2e_request_latency_seconds", "time_to_first_token_seconds", "request_params_n"):
        assert server.metric(f"vllm:{histogram}_count") == 3, histogram
    assert server.metric("vllm:request_params_n_sum") == 6
    assert server.metric("vllm:request_generation_tokens_sum") == completion_tokens
    assert server.metric("vllm:inter_token_latency_seconds_count") == completion_tokens - 6
    server.stop()

    spans = {attributes(span)["gen_ai.request.id"]: span for span in collector.spans}
    assert sorted(spans) == ["cmpl-mine-0", "cmpl-mine-1", "cmpl-mine-2"]
    for number in range(3):
        span = spans[f"cmpl-mine-{number}"]
        told = attributes(span)
        assert span.trace_id.hex() == TRACE_ID
        assert told["gen_ai.usage.completion_tokens"] == 2 * (4 + number)
        assert told["gen_ai.response.finish_reasons"] == ["length", "length"]
        assert 0 <= told["gen_ai.latency.time_in_queue"] <= told["gen_ai.latency.time_to_first_token"]
        assert told["gen_ai.latency.time_to_first_token"] <= told["gen_ai.latency.e2e"]

    records = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    of_request = [record for record in records if record.get("request_id") == "cmpl-mine-1"]
    assert {record["logger"] for record in of_request} >= {"uvicorn.access", "api.serving.context"}


def attributes(span) -> dict:
    """Name -> value."""

    def value(given):
        kind = given.WhichOneof("value")
        if kind == "array_value":
            return [value(item) for item in given.array_value.values]
        return getattr(given, kind)

    return {pair.key: value(pair.value) for pair in span.attributes}
