"""Resolving model names with the real hub library: its cache on disk, and a hub on localhost."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import huggingface_hub
import pytest

from vllm_jax.errors import CheckpointError, ConfigError
from vllm_jax.weights.hub import resolve_directory

SHA = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, repo: str, files: dict[str, bytes], refs: tuple[str, ...] = ("main",)) -> Path:
    """Lays a repository into a cache directory as the hub library keeps it."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / SHA
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    (root / "refs").mkdir()
    for ref in refs:
        (root / "refs" / ref).write_text(SHA)
    return snapshot


@pytest.fixture
def offline(monkeypatch):
    """What HF_HUB_OFFLINE=1 sets when the library is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


# Local directories


def test_a_directory_is_taken_as_it_is(tmp_path, monkeypatch):
    assert resolve_directory(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert resolve_directory("org/model") == Path("org/model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_directory("~/org") == tmp_path / "org"


@pytest.mark.parametrize("name", ["/no/such/place", "./gone", "~/gone", "../gone/model"])
def test_paths_that_are_not_there(name):
    with pytest.raises(ConfigError, match="there is no directory"):
        resolve_directory(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(ConfigError, match="is a file"):
        resolve_directory(str(tmp_path / "model.gguf"))


def test_a_revision_of_a_local_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"revision \('v1'\).*local directory"):
        resolve_directory(str(tmp_path), revision="v1")


# The cache, without a network


def test_a_cached_model_is_found_offline(offline, tmp_path):
    snapshot = cached(
        tmp_path, "org/model", {"config.json": b"{}", "model.safetensors": b"x"}, ("main", "v1")
    )
    for revision in (None, "main", "v1", SHA):
        found = resolve_directory("org/model", revision=revision, cache_dir=str(tmp_path))
        assert found.samefile(snapshot)


def test_offline_and_not_cached(offline, tmp_path):
    with pytest.raises(ConfigError, match=r"'org/model' is not a local .* not complete.*OFFLINE is set"):
        resolve_directory("org/model", cache_dir=str(tmp_path))
    cached(tmp_path, "org/model", {"config.json": b"{}", "model.safetensors": b"x"})
    with pytest.raises(ConfigError, match=r"'org/model' in revision 'v9'.*OFFLINE is set"):
        resolve_directory("org/model", revision="v9", cache_dir=str(tmp_path))


def test_cached_without_safetensors(offline, tmp_path):
    cached(tmp_path, "org/model", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(CheckpointError, match=r"org/model has weights only in PyTorch.*save_pretrained"):
        resolve_directory("org/model", cache_dir=str(tmp_path))
    assert resolve_directory("org/model", cache_dir=str(tmp_path), weights=False).is_dir()


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "org/model?", "-org/model", "org/mo--del", "\0", ""])
def test_names_that_cannot_be_hub_ids(offline, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        resolve_directory(name, cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


# A hub on localhost


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a download of small files needs."""

    repos: dict[str, dict[str, bytes]]
    failures: dict[str, tuple[int, str]]
    downloaded: list[str]

    def log_message(self, *args):
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path).strip("/")
        parts = path.removeprefix("api/models/").split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        if repo in self.failures:
            status, code = self.failures[repo]
            return self.reply(status, b"{}", X_Error_Code=code)
        if repo not in self.repos:
            return self.reply(404, b"{}", X_Error_Code="RepoNotFound")
        files = self.repos[repo]
        if rest[:1] == ["resolve"]:
            name = "/".join(rest[2:])
            if self.command == "GET":
                self.downloaded.append(name)
            return self.reply(200, files[name], X_Repo_Commit=SHA, ETag=f'"{len(name)}-{len(files[name])}"')
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": f"{len(name)}-{len(data)}"}
                for name, data in files.items()
            ]
            return self.reply(200, json.dumps(tree).encode(), Content_Type="application/json")
        if rest[:1] == ["revision"] and rest[1] not in ("main", SHA):
            return self.reply(404, b"{}", X_Error_Code="RevisionNotFound")
        info = {"id": repo, "sha": SHA, "siblings": [{"rfilename": name} for name in files], "tags": []}
        return self.reply(200, json.dumps(info).encode(), Content_Type="application/json")


@pytest.fixture
def hub(monkeypatch):
    handler = type("ThisHub", (Hub,), {"repos": {}, "failures": {}, "downloaded": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield handler
        server.shutdown()
        thread.join()


FILES = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer.model": b"sp",
    "chat_template.jinja": b"{{ x }}",
    "merges.txt": b"a b",
    "model-00001-of-00001.safetensors": b"weights",
    "model.safetensors.index.json": b"{}",
}
UNWANTED = {
    "README.md": b"#",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"again",
    "onnx/model.onnx": b"x",
    "original/consolidated.00.safetensors": b"again",
    "original/params.json": b"{}",
}


def test_download_takes_what_is_needed_and_nothing_else(hub, tmp_path):
    hub.repos["org/model"] = {**FILES, **UNWANTED}
    directory = resolve_directory("org/model", cache_dir=str(tmp_path))
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == FILES
    assert sorted(hub.downloaded) == sorted(FILES)
    hub.downloaded.clear()
    assert resolve_directory("org/model", cache_dir=str(tmp_path)).samefile(directory)
    assert hub.downloaded == []


def test_text_files_only(hub, tmp_path):
    hub.repos["org/model"] = {**FILES, **UNWANTED}
    directory = resolve_directory("org/model", cache_dir=str(tmp_path), weights=False)
    assert {file.name for file in directory.iterdir()} == {n for n in FILES if not n.endswith(".safetensors")}


def test_a_repository_with_pickles_only(hub, tmp_path):
    hub.repos["org/model"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(
        CheckpointError, match=r"org/model has .* only in PyTorch.*pytorch_model.bin.*save_pretrained"
    ):
        resolve_directory("org/model", cache_dir=str(tmp_path))
    assert hub.downloaded == ["config.json"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ((404, "RepoNotFound"), "'org/model' is neither a local directory nor a hub model"),
        ((401, ""), "answered 401 when asked for 'org/model'.*HF_TOKEN"),
        ((403, "GatedRepo"), "'org/model' is gated.*HF_TOKEN"),
        ((500, ""), "'org/model'"),
    ],
)
def test_answers_of_the_hub_become_one_line(hub, tmp_path, failure, message):
    hub.failures["org/model"] = failure
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_directory("org/model", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_such_revision(hub, tmp_path):
    hub.repos["org/model"] = FILES
    with pytest.raises(ConfigError, match="'org/model' has no revision 'v9'"):
        resolve_directory("org/model", revision="v9", cache_dir=str(tmp_path))


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"'org/model' is not a local directory.*cannot be reached"):
        resolve_directory("org/model", cache_dir=str(tmp_path))
