"""``vllm-jax bench`` against a real server, and its command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server_process import ENGINE_FLAGS, Server

from api.cli import main
from api.commands.arguments import split
from api.commands.bench import bench
from vllm_jax.engine.async_engine import AsyncEngine


def test_bench_serve_measures_a_real_server(
    server: Server, mpt_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "plot.png"
    words = f"bench serve --base-url {server.url}/v1 --num-prompts 12 --max-concurrency 3 --num-warmups 1"
    words += " --random-input-len 9 --random-output-len 5 --random_range_ratio=0.3 --no-progress"
    words += (
        f" --goodput ttft:60000 e2e:60000 --result-dir {tmp_path} --result-filename r.json --save-detailed"
    )
    assert main([*words.split(), f"--plot={picture}", f"--tokenizer={mpt_checkpoint}"]) == 0
    shown = capsys.readouterr().out
    assert "Time to first token" in shown and "warning" not in shown, shown
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["completed"], result["failed"]) == (12, 0)
    assert result["requests_with_wrong_output_tokens"] == result["requests_with_wrong_prompt_tokens"] == 0
    requests = result["requests"]
    assert sum(r["output_tokens"] for r in requests) == result["total_output_tokens"]
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])
    assert 1 <= result["max_concurrent_requests"] <= 3
    assert 0 < result["median_ttft_ms"] <= result["median_e2el_ms"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bench_serve_takes_prompts_from_a_file_and_keeps_what_it_is_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "prompts.jsonl", tmp_path / "runs.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": f"Number {i}", "output_tokens": 3 + i}) + "\n" for i in range(4))
    )
    words = f"bench serve --base-url {server.url} --dataset-name custom --dataset-path {source} --no-progress"
    words += f" --served-model-name tiny --model {server.model} --num-warmups 1 --top-p 0.9 --top-k 5"
    words += f" --label first --metadata tp=1 note=a=b --append-result --result-filename {target.name}"
    words += f" --result-dir {tmp_path} --save-detailed"
    for _ in range(2):
        assert main(words.split()) == 0, capsys.readouterr()
    first, second = map(json.loads, target.read_text().splitlines())
    for run in (first, second):
        assert (run["completed"], run["total_output_tokens"]) == (4, 3 + 4 + 5 + 6)
        assert (run["label"], run["tp"], run["note"], run["model"]) == ("first", "1", "a=b", "tiny")
        assert json.loads(run["extra_body"]) == {"top_p": 0.9, "top_k": 5}
    assert [r["output_tokens"] for r in first["requests"]] == [r["output_tokens"] for r in second["requests"]]


def test_refusals_are_counted_and_shown(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"bench serve --base-url {server.url} --num-prompts 2 --random-input-len 4 --no-progress"
    body = json.dumps({"temperature": 77})
    assert main([*words.split(), "--extra-body", body]) == 1
    shown = capsys.readouterr().out
    assert "HTTP 400" in shown and "temperature" in shown


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("bench dance", 2, "dance"),
        ("bench serve --num-prompts 0", 2, "--num-prompts"),
        ("bench serve --no-such-flag", 2, "--no-such-flag"),
        ("bench serve --goodput speed:3", 2, "speed:3"),
        ("bench serve --percentile-metrics ttft,speed", 2, "speed"),
        ("bench serve --metric-percentiles 101", 2, "101"),
        ("bench serve --base-url http://127.0.0.1:9", 1, "http://127.0.0.1:9"),
        ("bench offline --no-such-flag", 2, "--no-such-flag"),
        ("bench offline /no/such/model", 1, "/no/such/model"),
        ("bench startup --num-iters-warm -1", 2, "--num-iters-warm"),
        ("bench serve --dataset-name custom", 2, "--dataset-path"),
        ("bench serve --dataset-path x", 2, "--dataset-name custom"),
        ("bench serve --metadata nothing", 2, "KEY=VALUE"),
        ("bench latency /no/such/model --batch-size 0", 2, "--num-prompts"),
        ("bench throughput /no/such/model --input-len 8", 1, "/no/such/model"),
    ],
)
def test_wrong_calls(words: str, code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vllm-jax: error: ")]
    assert len(lines) == 1 and says in lines[0]


def test_a_failed_start_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "startup", "/no/such/model", "--num-iters-warm", "0"]) == 1
    assert "/no/such/model" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["--help"]) == 0
    assert "bench serve" in capsys.readouterr().out
    for command in ("serve", "offline", "startup"):
        assert main(["bench", command, "--help"]) == 0
        assert "options" in capsys.readouterr().out


def test_own_flags_are_told_from_those_of_the_engine() -> None:
    from api.bench.offline import BenchOffline

    words = "demo --num_prompts 3 --max-num-seqs=8 --num-iters 2 --no-enable-prefix-caching --seed 5"
    own, rest = split(BenchOffline, words.split(), prog="p", description="d")
    assert (own.dataset.num_prompts, own.dataset.seed, own.offline.num_iters) == (3, 5, 2)
    assert rest == ["demo", "--max-num-seqs=8", "--no-enable-prefix-caching"]


def test_bench_offline_runs_the_engine(
    mpt_checkpoint: Path, engine: AsyncEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--num-prompts 6 --random-input-len 8 --random-output-len 7 --num-iters 2"
    target = tmp_path / "offline.json"
    words += f" --output-json {target}"
    assert main(["bench", "offline", str(mpt_checkpoint), *words.split(), *ENGINE_FLAGS]) == 0
    assert "output tokens per second" in capsys.readouterr().out
    result = json.loads(target.read_text())
    assert len(result["runs"]) == 2
    for run in result["runs"]:
        assert run["output_tokens_per_second"] * run["seconds"] == pytest.approx(6 * 7)
        assert run["tokens_per_second"] * run["seconds"] == pytest.approx(6 * (8 + 7))
    assert result["median_ttft_ms"] > 0


@pytest.mark.parametrize(
    ("command", "words", "prompts", "runs", "tokens"),
    [
        (
            "latency",
            "--input-len 8 --output_len=4 --batch-size 3 --num-iters 2 --num-iters-warmup=0",
            3,
            2,
            12,
        ),
        ("throughput", "--num-prompts 5 --input-len 6 --output-len 3", 5, 1, 9),
    ],
)
def test_vllms_names_of_the_offline_benchmark(
    mpt_checkpoint: Path,
    engine: AsyncEngine,
    tmp_path: Path,
    command: str,
    words: str,
    prompts: int,
    runs: int,
    tokens: int,
) -> None:
    target = tmp_path / "figures.json"
    flags = [*words.split(), "--output-json", str(target), *ENGINE_FLAGS]
    assert main(["bench", command, "--model", str(mpt_checkpoint), *flags]) == 0
    result = json.loads(target.read_text())
    assert result["num_prompts"] == prompts and len(result["runs"]) == runs
    for run in result["runs"]:
        assert run["tokens_per_second"] * run["seconds"] == pytest.approx(prompts * tokens)


def test_bench_startup_times_a_start(mpt_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "startup.json"
    words = "--num-iters-warm 0 --max-num-seqs 1 --max-num-batched-tokens 16 --num-gpu-blocks-override 16"
    assert main(["bench", "startup", str(mpt_checkpoint), *words.split(), f"--output-json={target}"]) == 0
    [start] = json.loads(target.read_text())["starts"]
    assert start["kind"] == "cold" and 0 < start["ready_s"] < start["first_token_s"]
    assert start["peak_rss_bytes"] > 100e6
