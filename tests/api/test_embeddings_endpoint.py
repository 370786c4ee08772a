"""/v1/embeddings and LLM.embed of a tiny Qwen3, with transformers as the oracle."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tiny_models
import torch
from fastapi.testclient import TestClient
from langchain_openai import OpenAIEmbeddings
from server_process import ENGINE_SETTINGS
from transformers import AutoModel

from api.app import create_app
from api.server_config import ServerConfig
from api.serving.context import make_context
from vllm_jax import LLM
from vllm_jax.config import EngineConfig
from vllm_jax.engine.async_engine import AsyncEngine
from vllm_jax.errors import ConfigError, InvalidRequestError
from vllm_jax.weights.pooling import Pooling, read_pooling

PATH = "/v1/embeddings"
TEXTS = [
    "Where is the station?",
    "Io amo programmare.",
    "a",
    "The quick brown fox jumps over the lazy dog. " * 3,
]


def write_modules(directory: Path, mode: str = "lasttoken", *, normalize: bool = True) -> None:
    """The files that sentence-transformers writes beside a model."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    names = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    config = {f"pooling_mode_{name}": name == mode for name in names}
    config |= {"word_embedding_dimension": 64, "include_prompt": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_models.save(tiny_models.make("qwen3"), tmp_path_factory.mktemp("tiny-embedding"))
    write_modules(directory)
    return directory


@pytest.fixture(scope="module")
def client(checkpoint: Path) -> Iterator[TestClient]:
    config = EngineConfig.from_flat(model=str(checkpoint), **ENGINE_SETTINGS)
    server_config = ServerConfig()
    api = dataclasses.replace(server_config.api, served_model_name=("embedder",))
    context = make_context(AsyncEngine.start(config), config, dataclasses.replace(server_config, api=api))
    yield TestClient(create_app(context), raise_server_exceptions=False)
    context.prompts.close()


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> np.ndarray:
    """``[4, H]``: the last hidden state of each text's last token, of length 1."""
    model = AutoModel.from_pretrained(checkpoint).eval()
    found = []
    for text in TEXTS:
        ids = tiny_models.tokenizer()(text)["input_ids"]
        with torch.no_grad():
            last = model(torch.tensor([ids])).last_hidden_state[0, -1].float()
        found.append(torch.nn.functional.normalize(last, dim=0).numpy())
    return np.stack(found)


def ask(client: TestClient, status: int = 200, **body: Any) -> dict[str, Any]:
    response = client.post(PATH, json={"model": "embedder", **body})
    assert response.status_code == status, response.text
    return response.json() if status == 200 else response.json()["error"]


def vectors(answer: dict[str, Any]) -> np.ndarray:
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return np.array([entry["embedding"] for entry in answer["data"]])


def test_embeddings_are_those_of_transformers(client: TestClient, expected: np.ndarray) -> None:
    for _ in range(2):  # the second time prefixes come from the cache
        answer = ask(client, input=TEXTS)
        assert vectors(answer) == pytest.approx(expected, abs=2e-5)
        for text, vector in zip(TEXTS, expected, strict=True):
            assert vectors(ask(client, input=text))[0] == pytest.approx(vector, abs=2e-5)
    lengths = [len(tiny_models.tokenizer()(text)["input_ids"]) for text in TEXTS]
    assert answer["usage"] == {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)}
    assert answer["object"] == "list" and answer["data"][0]["object"] == "embedding"
    assert answer["model"] == "embedder"


def test_token_ids_are_inputs_too(client: TestClient, expected: np.ndarray) -> None:
    ids = [tiny_models.tokenizer()(text)["input_ids"] for text in TEXTS]
    assert vectors(ask(client, input=ids)) == pytest.approx(expected, abs=2e-5)
    assert vectors(ask(client, input=ids[0]))[0] == pytest.approx(expected[0], abs=2e-5)


def test_an_embedding_generates_no_tokens(client: TestClient) -> None:
    def counted(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:{name}{{"))

    before = {name: counted(name) for name in ("generation_tokens_total", "request_success_total")}
    ask(client, input=TEXTS)
    assert counted("generation_tokens_total") == before["generation_tokens_total"]
    assert counted("request_success_total") == before["request_success_total"] + len(TEXTS)


def test_encodings_and_dimensions(client: TestClient, expected: np.ndarray) -> None:
    text = ask(client, input=TEXTS, encoding_format="base64")["data"][1]["embedding"]
    decoded = np.frombuffer(base64.b64decode(text), "<f4")
    assert decoded == pytest.approx(expected[1], abs=2e-5)
    short = vectors(ask(client, input=TEXTS, dimensions=16))
    cut = expected[:, :16] / np.linalg.norm(expected[:, :16], axis=1, keepdims=True)
    assert short == pytest.approx(cut, abs=2e-5)


def test_more_inputs_than_run_at_once(client: TestClient) -> None:
    inputs = [[i, i + 1, i + 2] for i in range(5, 35)]
    together = vectors(ask(client, input=inputs))
    assert together[17] == pytest.approx(vectors(ask(client, input=inputs[17]))[0], abs=2e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(30), abs=1e-5)


def test_the_model_still_generates(client: TestClient) -> None:
    body = {"prompt": "One two", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    assert client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("input", {}),
        ("input", {"input": ""}),
        ("input", {"input": ["a", ""]}),
        ("input", {"input": [10**6]}),
        ("input", {"input": "word " * 400}),
        ("input", {"input": ["a"] * 2049}),
        ("dimensions", {"input": "a", "dimensions": 65}),
        ("dimensions", {"input": "a", "dimensions": 0}),
        ("encoding_format", {"input": "a", "encoding_format": "int8"}),
        ("truncate_prompt_tokens", {"input": "a", "truncate_prompt_tokens": 0}),
        ("embed_dtype", {"input": "a", "embed_dtype": "float16"}),
        ("endianness", {"input": "a", "endianness": "big"}),
        ("use_activation", {"input": "a", "use_activation": False}),
        ("normalize", {"input": "a", "normalize": False}),
        ("messages", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_what_cannot_be_honoured_is_named(client: TestClient, param: str, body: dict[str, Any]) -> None:
    assert ask(client, 400, **body)["param"] == param


def test_long_inputs_can_be_cut(client: TestClient) -> None:
    cut = ask(client, input="word " * 400, truncate_prompt_tokens=-1, truncation_side="right")
    assert cut["usage"]["prompt_tokens"] == 255


def test_fields_that_ask_for_what_is_done(client: TestClient) -> None:
    plain = ask(client, input="a")["data"]
    said = {"embed_dtype": "float32", "endianness": "little", "use_activation": True, "normalize": None}
    assert ask(client, input="a", **said)["data"] == plain
    assert client.post("/invocations", json={"input": "a"}).json()["data"] == plain


def test_the_official_client_and_langchain(client: TestClient, expected: np.ndarray) -> None:
    official = openai.OpenAI(
        base_url="http://testserver/v1",
        api_key="EMPTY",
        max_retries=0,
        http_client=client,  # type: ignore[arg-type]
    )
    found = official.embeddings.create(model="embedder", input=TEXTS)
    assert np.array([entry.embedding for entry in found.data]) == pytest.approx(expected, abs=2e-5)
    langchain = OpenAIEmbeddings(
        model="embedder",
        base_url="http://testserver/v1",
        api_key="EMPTY",
        check_embedding_ctx_length=False,
        max_retries=0,
        http_client=client,
    )
    assert np.array(langchain.embed_documents(TEXTS)) == pytest.approx(expected, abs=2e-5)
    assert np.array(langchain.embed_query(TEXTS[0])) == pytest.approx(expected[0], abs=2e-5)


def test_a_model_that_only_generates_says_so(make_client: Any, engine: Any) -> None:
    plain = make_client()
    error = plain.post(PATH, json={"input": "a"}).json()["error"]
    assert error["code"] == 400 and error["param"] == "model" and "no embeddings" in error["message"]


def test_llm_embeds(checkpoint: Path, expected: np.ndarray) -> None:
    llm = LLM(checkpoint, show_progress=False, **ENGINE_SETTINGS)
    outputs = llm.embed(TEXTS, use_tqdm=False)
    assert np.array([output.outputs.embedding for output in outputs]) == pytest.approx(expected, abs=2e-5)
    with pytest.raises(InvalidRequestError):
        llm.embed([[]], use_tqdm=False)  # type: ignore[list-item]


def test_poolings_are_read_or_refused(tmp_path: Path) -> None:
    assert read_pooling(tmp_path, "auto") is None
    assert read_pooling(tmp_path, "pooling") == Pooling(normalize=True)
    write_modules(tmp_path, normalize=False)
    assert read_pooling(tmp_path, "auto") == Pooling(normalize=False)
    assert read_pooling(tmp_path, "generate") is None
    write_modules(tmp_path, "mean_tokens")
    with pytest.raises(ConfigError, match="mean_tokens"):
        read_pooling(tmp_path, "auto")
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    assert read_pooling(tmp_path, "auto") == Pooling(normalize=True)
    for text, says in (
        ("{", "JSON"),
        ("{}", "list"),
        ("[]", "no pooling"),
        ('[{"type": "x.Dense"}]', "Dense"),
    ):
        (tmp_path / "modules.json").write_text(text)
        with pytest.raises(ConfigError, match=says):
            read_pooling(tmp_path, "auto")
