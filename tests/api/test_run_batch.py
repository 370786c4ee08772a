"""``vllm-jax run-batch`` with a real engine: every line answered once, in order, whatever comes between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from server_process import ENGINE_FLAGS, REPO, break_after_steps

from api.app import create_app
from api.cli import main
from api.commands.batch_file import BatchOutput, BatchRequest, check_requests
from api.commands.run_batch import _Runner
from api.server_config import ServerConfig
from api.serving.context import make_context
from vllm_jax.config import EngineConfig
from vllm_jax.engine.async_engine import AsyncEngine
from vllm_jax.errors import ConfigError


def line(custom_id: str, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": f"Number {custom_id}", "max_tokens": 3, "temperature": 0, **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def words(model: Path, source: Path, target: Path, *more: str) -> list[str]:
    flags = [*ENGINE_FLAGS, "--served-model-name=tiny", "--no-progress", *more]
    return ["run-batch", str(model), "-i", str(source), "-o", str(target), *flags]


def test_every_line_is_answered_in_order(
    tmp_path: Path, mpt_checkpoint: Path, engine: AsyncEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    rows: list[Any] = [line(str(i), max_tokens=20 - i) for i in range(15)]
    rows += [
        {**line("chat", "/v1/chat/completions", messages=messages)},
        line("wrong parameter", temperature=77),
        line("wrong model", model="other"),
        line("wrong url", "/v1/dance"),
        line("streams", stream=True),
        {**line("wrong method"), "method": "GET"},
        line("wrong kind of url", url=["/v1/completions"]),  # type: ignore[arg-type]
        line("no number", temperature=float("nan")),
        line("half a character \ud800", prompt="\ud800"),
        {"custom_id": "no body", "method": "POST", "url": "/v1/completions"},
    ]
    del rows[15]["body"]["prompt"]
    source, target = write(tmp_path / "in.jsonl", [*rows, ""]), tmp_path / "out.jsonl"
    flags = ["--enable-metrics", "--port=9000"]
    assert main(words(mpt_checkpoint, source, target, "--max-inflight=5", *flags)) == 0, (
        capsys.readouterr().err
    )
    answers = read(target)
    assert [a["custom_id"] for a in answers] == [row["custom_id"] for row in rows]
    assert len({a["id"] for a in answers}) == len(rows)
    for answer, row in zip(answers[:16], rows, strict=False):
        assert answer["error"] is None and answer["response"]["status_code"] == 200
        usage = answer["response"]["body"]["usage"]
        assert usage["completion_tokens"] <= row["body"]["max_tokens"]
        assert answer["response"]["request_id"] == answer["response"]["body"]["id"]
    assert answers[15]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    by_id = {a["custom_id"]: a for a in answers}
    assert by_id["wrong parameter"]["response"]["status_code"] == 400
    assert by_id["wrong parameter"]["error"]["error"]["param"] == "temperature"
    assert by_id["wrong model"]["response"]["status_code"] == 404
    for custom_id in ("no number", "half a character \ud800"):
        assert by_id[custom_id]["response"]["status_code"] == 400
    params = {
        "wrong kind of url": "url",
        "wrong url": "url",
        "streams": "stream",
        "wrong method": "method",
        "no body": "body",
    }
    for custom_id, param in params.items():
        assert by_id[custom_id]["response"]["status_code"] == 400
        assert by_id[custom_id]["error"]["error"]["param"] == param
    for answer in answers[16:]:
        assert answer["response"]["body"] is None and answer["error"]["error"]["message"]
    assert all(a["id"].startswith("vllm-") for a in answers)
    assert all(a["response"]["request_id"].startswith("vllm-batch-") for a in answers[16:])
    said = capsys.readouterr().err
    assert "9 of them with an error" in said
    assert [f"{flag} has no effect" in said for flag in ("--enable-metrics", "--port", "--host")] == [
        True,
        True,
        False,
    ]
    # Once more: asking again would give the same, so that nothing is asked.
    assert main(words(mpt_checkpoint, source, target)) == 0
    assert read(target) == answers


def test_an_interrupted_batch_goes_on(tmp_path: Path, mpt_checkpoint: Path, engine: AsyncEngine) -> None:
    rows = [line(str(i), max_tokens=40, ignore_eos=True) for i in range(150)]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "api.cli", *words(mpt_checkpoint, source, target, "--max-inflight=3")]
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not target.exists() or len(target.read_text().splitlines()) < 6:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Run it again" in said, said
    with target.open("a") as file:
        file.write('{"id": "x", "custom_id": "149", "resp')  # torn off in the middle of a write
    first = {a["custom_id"]: a["id"] for a in map(json.loads, target.read_text().split("\n")[:-1])}
    assert 6 <= len(first) < 150
    assert main(words(mpt_checkpoint, source, target)) == 0
    answers = read(target)
    assert [a["custom_id"] for a in answers] == [row["custom_id"] for row in rows]
    assert all(a["response"]["body"]["usage"]["completion_tokens"] == 40 for a in answers)
    assert {c: i for c, i in ((a["custom_id"], a["id"]) for a in answers) if c in first} == first


def test_an_empty_input_is_in_order(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", []), tmp_path / "out.jsonl"
    assert main(words(Path("/no/model"), source, target)) == 0
    assert target.read_text() == ""


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["{"], "line 1 is no JSON object"),
        ([line("a"), "[]"], "line 2 is no JSON object"),
        ([{"url": "/v1/completions"}], "line 1 has no custom_id"),
        ([line("a"), line("b"), line("a")], "line 3 has the custom_id of line 1"),
    ],
)
def test_lines_without_a_place_in_the_output_stop_the_run(
    tmp_path: Path, rows: list[Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(words(Path("/no/model"), source, target)) == 2
    assert says in capsys.readouterr().err and not target.exists()


def test_wrong_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.jsonl", [line("a")])
    for argv, code, says in [
        (["run-batch"], 2, "-i INPUT.jsonl"),
        (["run-batch", "-i", str(source), "-o", str(source)], 2, "two files"),
        (["run-batch", "-i", "/no/file", "-o", str(tmp_path / "o")], 2, "/no/file"),
        (["run-batch", "-i", str(source), "-o", "/no/directory/o"], 1, "/no/directory/o"),
        (words(Path("/no/model"), source, tmp_path / "o"), 1, "/no/model"),
        (words(Path("/no/model"), source, tmp_path / "p", "--no-such-flag"), 2, "--no-such-flag"),
    ]:
        assert main(argv) == code
        assert says in capsys.readouterr().err
    assert main(["run-batch", "--help"]) == 0
    assert "--max-inflight" in capsys.readouterr().out


def test_the_output_of_another_input_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [line("a"), line("b")])
    order = check_requests(source)
    target = tmp_path / "out.jsonl"
    for content in ('{"custom_id": "z", "response": null}\n', "some text\n"):
        target.write_text(content)
        with pytest.raises(ConfigError, match="--overwrite"):
            BatchOutput(target, order)
        assert target.read_text() == content


def test_answers_that_may_change_are_asked_for_again(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    statuses = {"a": 200, "b": 400, "c": 503, "d": 500, "e": 429}
    rows: list[Any] = [
        {"id": c, "custom_id": c, "response": {"status_code": s}, "error": None} for c, s in statuses.items()
    ]
    write(target, [*rows, {"id": "f", "custom_id": "f", "response": None, "error": {"code": "invalid_url"}}])
    output = BatchOutput(target, list("fedcba"))
    assert output.done == {"a", "b"}
    for custom_id in "cdef":
        output.write({"id": "new", "custom_id": custom_id, "response": None, "error": None})
    output.close(sort=True)
    assert [row["custom_id"] for row in read(target)] == list("fedcba")


async def test_a_failed_engine_ends_the_run_and_writes_no_answer_for_it(
    mpt_checkpoint: Path, engine_config: EngineConfig
) -> None:
    engine = AsyncEngine.start(engine_config)
    context = make_context(engine, engine_config, ServerConfig())
    lines: list[dict[str, Any]] = []
    requests = (
        BatchRequest(str(i), "POST", "/v1/completions", line(str(i), model=str(mpt_checkpoint))["body"])
        for i in range(50)
    )
    runner = _Runner(create_app(context), engine, requests, 2, lines.append)
    break_after_steps(engine, 20)
    with pytest.raises(ConfigError, match="run it again"):
        await runner.run()
    assert 0 < len(lines) < 50
    assert all(row["response"]["status_code"] == 200 for row in lines)
    context.prompts.close()
