"""``vllm-jax chat`` and ``complete`` against a real server: quick, piped and at a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time

import openai
import pytest
from server_process import REPO, Server

from api.cli import main
from api.commands.chat import _harmless

FLAGS = ["--max-tokens=6", "--temperature=0"]


def expected_chat(server: Server, messages: list[dict[str, str]]) -> str:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x")
    answer = client.chat.completions.create(
        model="tiny",
        messages=messages,
        max_tokens=6,
        temperature=0,  # type: ignore[arg-type]
    )
    return answer.choices[0].message.content or ""


def test_quick_chat(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chat", f"--url={server.url}/v1", "-q", "Hello there", "--system-prompt", "Be brief.", *FLAGS]
    assert main([*words, "--stats"]) == 0
    shown = capsys.readouterr()
    system = {"role": "system", "content": "Be brief."}
    assert shown.out == expected_chat(server, [system, {"role": "user", "content": "Hello there"}]) + "\n"
    assert "first token after" in shown.err and "6 tokens" in shown.err


@pytest.mark.parametrize("command", ["chat", "complete"])
def test_piped(
    server: Server, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Two lines\nof input"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text + "\n"))
    assert main([command, "--url", f"{server.url}/v1", "--model", "tiny", *FLAGS]) == 0
    out = capsys.readouterr().out
    if command == "chat":
        assert out == expected_chat(server, [{"role": "user", "content": text}]) + "\n"
    else:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x")
        done = client.completions.create(model="tiny", prompt=text, max_tokens=6, temperature=0)
        assert out == done.choices[0].text + "\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--url", "http://127.0.0.1:9/v1"], 1, "vllm-jax serve"),
        (["--url", "http://[::1/v1"], 1, "--url"),
        (["--temperature", "hot"], 2, "hot"),
        (["--no-such-flag"], 2, "--no-such-flag"),
    ],
)
def test_wrong_calls(words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--quick", "x", *words]) == code
    assert says in capsys.readouterr().err


def test_a_refusal_is_one_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"--url={server.url}/v1"
    assert main(["complete", url, "-q", "x", "--temperature=77"]) == 1
    err = capsys.readouterr().err
    assert "temperature" in err and len(err.strip().splitlines()) == 1
    assert main(["complete", url, "-q", "x", "--model-name=no-such-model"]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_a_conversation_at_a_terminal(server: Server) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "chat", f"--url={server.url}/v1", *FLAGS],
        cwd=REPO,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        for typed in ("Hello", "And you?", "/clear", "Hello", "/exit"):
            os.write(controller, typed.encode() + b"\n")
            time.sleep(0.05)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(controller)
    assert process.returncode == 0, err
    first = {"role": "user", "content": "Hello"}
    one = expected_chat(server, [first])
    history = [first, {"role": "assistant", "content": one}, {"role": "user", "content": "And you?"}]
    two = expected_chat(server, history)
    assert out.decode().replace("> ", "") == f"{one}\n{two}\n{one}\n"
    assert b"/exit leaves" in err


def test_a_terminal_obeys_no_answer() -> None:
    assert _harmless("a\x1b[31mb\x07\x9bc\n\té👩‍💻", True) == "a[31mbc\n\té👩‍💻"
    assert _harmless("a\x1b", False) == "a\x1b"
