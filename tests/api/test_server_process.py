"""The server as a process: clients that vanish, signals, keys from the environment, token ids only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_process import Server, StartServer
from sse_reader import read_events

CHAT = "/v1/chat/completions"
ENDLESS = {"ignore_eos": True, "temperature": 1, "max_tokens": 240}
LONG = {"messages": [{"role": "user", "content": "Hello"}], **ENDLESS}


def test_start_prints_a_summary_and_warns_of_the_template_once(server: Server) -> None:
    log = server.log.read_text()
    for text in (
        "tiny/model",
        server.model,
        f"http://localhost:{server.port}/v1",
        "96 blocks",
        "float32",
        "curl ",
    ):
        assert text in log, text
    assert log.count("--chat-template") == 1 and "Traceback" not in log


def test_the_curl_line_works(server: Server) -> None:
    [line] = [line for line in server.log.read_text().splitlines() if line.startswith("  curl ")]
    done = subprocess.run(["bash", "-c", line + " -s"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["choices"]


def test_clients_that_vanish_free_their_blocks(server: Server) -> None:
    def vanish(i: int) -> None:
        body = {**LONG, "stream": i % 2 == 0, "n": 1 + i % 3}
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            data = json.dumps(body).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            time.sleep(0.02 * (i % 5))
            if i % 2 == 0:
                sock.recv(200)

    threads = [threading.Thread(target=vanish, args=(i,)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.wait_until_idle()
    answer = httpx.post(server.url + CHAT, json={**LONG, "max_tokens": 2}, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 2


def test_a_reader_that_pauses_gets_everything(server: Server) -> None:
    body = {**LONG, "stream": True, "max_tokens": 40, "seed": 1}
    expected = httpx.post(server.url + CHAT, json={**body, "stream": False}, timeout=60).json()
    with httpx.stream("POST", server.url + CHAT, json=body, timeout=60) as response:
        time.sleep(1)
        chunks = read_events(response.read().decode())
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == expected["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X-Big: " + b"a" * 65_400 + b"\r\n\r\n", 200),
        (b"X-Big: " + b"a" * 66_000 + b"\r\n\r\n", 431),
        (b"X-Big: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (b"X-Big: " + b"a" * 800_000, 431),  # has no end
        (b"no header at all\r\n\r\n", 400),
    ],
)
def test_heads_that_are_refused_get_an_error_body(server: Server, head: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        with contextlib.suppress(OSError):  # the server may hang up before it has read all
            sock.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(4096):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if status != 200:
        assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == status
    assert httpx.get(server.url + "/health").status_code == 200


def test_an_idle_connection_outlives_the_clients_patience(server: Server) -> None:
    """httpx gives up an idle connection after 5 s; a server that does so too closes it under a request."""
    with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for pause in (6, 0):
            connection.request("GET", "/version")
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read()
            time.sleep(pause)


def test_keys_from_the_environment_token_ids_only_and_abort_at_once(start_server: StartServer) -> None:
    server = start_server(
        "--skip-tokenizer-init",
        "--timeout-keep-alive=1",
        "--uvicorn-log-level=warning",
        "--enforce-eager",
        env={"VLLM_API_KEY": "secret"},
    )
    assert "--enforce-eager has no effect" in server.log.read_text()
    completions = server.url + "/v1/completions"
    assert httpx.post(completions, json={"prompt": [1, 2]}).status_code == 401
    [line] = [line for line in server.log.read_text().splitlines() if line.startswith("  curl ")]
    assert "$VLLM_API_KEY" in line
    done = subprocess.run(
        ["bash", "-c", line + " -s"], env={**os.environ, "VLLM_API_KEY": "secret"}, capture_output=True
    )
    assert json.loads(done.stdout)["choices"]
    with httpx.Client(headers={"Authorization": "Bearer secret"}, timeout=60) as client:
        body = {
            "prompt": [[5, 6, 7], [8]],
            "max_tokens": 4,
            "ignore_eos": True,
            "logprobs": 1,
            "temperature": 0,
        }
        answer = client.post(completions, json=body).json()
        for choice in answer["choices"]:
            assert choice["text"] == "" and len(choice["token_ids"]) == 4
            assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in choice["token_ids"]]
        chunks = read_events(client.post(completions, json={**body, "prompt": [8], "stream": True}).text)
        streamed = [i for chunk in chunks for i in chunk["choices"][0]["token_ids"]]
        assert streamed == answer["choices"][1]["token_ids"]
        echoed = client.post(completions, json={"prompt": [5, 6, 7], "echo": True, "max_tokens": 3})
        [choice] = echoed.json()["choices"]
        assert choice["text"] == "" and choice["prompt_token_ids"] == [5, 6, 7] and choice["token_ids"]
        for path, refused, param in (
            ("/v1/completions", {"prompt": "text"}, "prompt"),
            ("/v1/completions", {"prompt": [1], "echo": True, "logprobs": 1}, "echo"),
            ("/v1/completions", {"prompt": [1], "stop": "a"}, "stop"),
            (CHAT, {"messages": LONG["messages"]}, "messages"),
            ("/tokenize", {"prompt": "a"}, "prompt"),
            ("/detokenize", {"tokens": [1]}, "tokens"),
        ):
            response = client.post(server.url + path, json=refused)
            assert response.status_code == 400 and response.json()["error"]["param"] == param, path
    assert "secret" not in server.log.read_text()
    with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("GET", "/health")
        connection.getresponse().read()
        assert not connection.sock.recv(1)  # a second later the server hangs up
    headers = {"Authorization": "Bearer secret"}
    thread, lines = stream_in_background(server, "/v1/completions", {"prompt": [1], **ENDLESS}, headers)
    server.stop()
    thread.join(30)
    assert finish_reason(lines) in ("abort", "length")


def test_unix_socket_and_sigterm_that_finishes_what_is_in_flight(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(uds=str(tmp_path / "s.sock"))
    with server.client() as client:
        assert client.get("/v1/models").json()["data"]
    thread, lines = stream_in_background(server, CHAT, LONG)
    server.stop()
    thread.join(30)
    assert finish_reason(lines) == "length"
    assert not Path(server.uds or "").exists()


def test_a_second_signal_aborts(start_server: StartServer) -> None:
    server = start_server("--shutdown-timeout=100")
    streams = [stream_in_background(server, CHAT, LONG) for _ in range(4)]
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0, server.log.read_text()
    for thread, lines in streams:
        thread.join(30)
        assert finish_reason(lines) in ("abort", "length")
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health")


def stream_in_background(
    server: Server, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[threading.Thread, list[str]]:
    """Reads a stream in a thread, which has got its first event when this returns."""
    lines: list[str] = []
    started = threading.Event()

    def read() -> None:
        with (
            server.client() as client,
            client.stream("POST", path, json={**body, "stream": True}, headers=headers) as response,
        ):
            for line in response.iter_lines():
                lines.append(line)
                started.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(60)
    return thread, lines


def finish_reason(lines: list[str]) -> str:
    events = read_events("\n".join(lines) + "\n")
    return events[-1]["choices"][0]["finish_reason"]
