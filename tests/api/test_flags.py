"""The command line of ``serve``: spellings, lists, JSON, files, aliases, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.commands.aliases import ALIASES
from api.commands.compatibility import FOREIGN_FLAGS
from api.commands.fields import settings
from api.commands.flags import parse_serve
from vllm_jax.config import FLOAT16_NOTE, EngineConfig
from vllm_jax.errors import ConfigError


def test_defaults() -> None:
    arguments = parse_serve([])
    assert arguments.engine.model.model == "demo"
    assert (arguments.server.http.host, arguments.server.http.port) == ("localhost", 8000)
    assert arguments.notes == []


@pytest.mark.parametrize(
    "argv",
    [
        ["org/model", "--max-num-seqs", "7", "--no-enable-prefix-caching"],
        ["--max_num_seqs=7", "--no_enable_prefix_caching", "org/model"],
        ["--no-enable-prefix-caching", "org/model", "--max_num-seqs", "7"],
        ["--model", "org/model", "--max-num-seqs", "3", "--max-num-seqs=7", "--no-enable-prefix-caching"],
        ["--enable-prefix-caching", "--model=org/model", "--max-num-seqs=7", "--no-enable-prefix-caching"],
    ],
)
def test_spellings_are_the_same(argv: list[str]) -> None:
    engine = parse_serve(argv).engine
    assert engine.model.model == "org/model"
    assert engine.scheduler.max_num_seqs == 7
    assert engine.cache.enable_prefix_caching is False


def test_lists() -> None:
    argv = ["m", "--api-key", "a", "b", "--served-model-name", "x/y", "z", "--api-key=c"]
    argv += ["--allowed-origins", '["https://a", "https://b"]']
    server = parse_serve(argv).server
    assert server.http.api_key == ("a", "b", "c")
    assert server.api.served_model_name == ("x/y", "z")
    assert server.http.allowed_origins == ("https://a", "https://b")


def test_json_flags() -> None:
    argv = ["--hf-overrides", '{"max_seq_len": 64}', "--hf-overrides.attn_config.alibi", "true"]
    argv += ["--override-generation-config.temperature=0.5", "--default-chat-template-kwargs.mode", "fast"]
    arguments = parse_serve(argv)
    assert arguments.engine.model.hf_overrides == {"max_seq_len": 64, "attn_config": {"alibi": True}}
    assert arguments.engine.model.override_generation_config == {"temperature": 0.5}
    assert arguments.server.api.default_chat_template_kwargs == {"mode": "fast"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("8k", 8000), ("8K", 8192), ("1.5k", 1500), ("auto", None), ("-1", None), ("512", 512)],
)
def test_sizes(text: str, value: int | None) -> None:
    assert parse_serve(["--max-model-len", text]).engine.model.max_model_len == value


def test_negative_values() -> None:
    assert parse_serve(["--max-logprobs", "-1"]).engine.model.max_logprobs == -1


def test_aliases() -> None:
    arguments = parse_serve(["-tp", "1", "--device-memory-utilization", "0.5"])
    assert arguments.engine.cache.gpu_memory_utilization == 0.5
    assert set(ALIASES.values()) <= set(settings()) | set(FOREIGN_FLAGS)


def test_flags_of_vllm_without_effect_say_so_once() -> None:
    argv = ["--enforce-eager", "m", "--disable-frontend-multiprocessing", "-O3", "--swap-space", "4"]
    arguments = parse_serve([*argv, "--disable_log_stats"])
    assert arguments.engine.model.model == "m"
    assert [note.split()[0] for note in arguments.notes] == [
        "--enforce-eager",
        "--disable-frontend-multiprocessing",
        "--optimization-level",
        "--swap-space",
        "--disable-log-stats",
    ]


FLAGS_OF_COMMON_COMMAND_LINES = """
--spec-method ngram|--spec-model a/b|--spec-tokens 3|--data-parallel-address 10.0.0.1
--data-parallel-rpc-port 1
--data-parallel-rank 1|--data-parallel-size-local 2|--data-parallel-hybrid-lb|--data-parallel-external-lb
--node-rank 1|--master-addr 10.0.0.1|--master-port 29501|--tool-strict-level 1
--tokens-only|--enable-scale-out
--lora-modules a=b|--lora-modules a=b {"name":"c","path":"d"}|--lora-modules=|--lora-modules
--data-parallel-size 2|--pipeline-parallel-size=2|--nnodes 2|--decode-context-parallel-size 2
--collect-detailed-traces model worker|--collect-detailed-traces all|--cudagraph-capture-sizes 1 2 4
--ignore-patterns original/**/*|--reasoning-config {"a":1}|--model-impl transformers|--convert embed
--attention-config.backend FLASH_ATTN|--log-config-file x.json|--disable-custom-all-reduce
--mm-processor-cache-gb 4|--allowed-local-media-path /x|--allowed-media-domains a.org b.org|--grpc-port 50051
--compilation-config.level 3|--compilation_config.cudagraph_mode=NONE|--speculative-config.method ngram
--trust-remote-code
"""


@pytest.mark.parametrize("flag", FLAGS_OF_COMMON_COMMAND_LINES.replace("\n", "|").strip("|").split("|"))
def test_flags_of_other_features_start_with_one_warning(flag: str) -> None:
    arguments = parse_serve([*flag.split(), "org/model"])
    assert arguments.engine.model.model == "org/model"
    [note] = arguments.notes
    assert note.startswith(flag.split()[0].split(".")[0].split("=")[0].replace("_", "-"))
    assert "has no effect" in note


SHORT_FORMS = """
-tp2|-tp=2|-tp 2|-pp 2|-dp2|-dpn 1|-dpl 2|-dpr 1|-dpa 1.2.3.4|-dpp 1|-dpb mp|-dcp 2|-dph|-ep
-cc.mode=3|-cc {"mode":3}|-sc {"method":"ngram"}|-O3|-O.mode=1
"""


@pytest.mark.parametrize("argv", SHORT_FORMS.replace("\n", "|").strip("|").split("|"))
def test_short_forms(argv: str) -> None:
    arguments = parse_serve([*argv.split(), "org/model"])
    assert arguments.engine.model.model == "org/model"
    assert arguments.engine.parallel.tensor_parallel_size == (2 if argv.startswith("-tp") else 1)
    assert len(arguments.notes) == (0 if argv.startswith("-tp") else 1)


@pytest.mark.parametrize(
    ("flag", "group", "value"),
    [
        ("--load-format hf", "load_format", "auto"),
        ("--seed None", "seed", 0),
        ("--reasoning-parser deepseek-r1", "reasoning_parser", "deepseek_r1"),
        ("--reasoning-parser gpt-oss", "reasoning_parser", "gpt_oss"),
        ("--tool-call-parser qwen3_xml", "tool_call_parser", "qwen3_coder"),
    ],
)
def test_other_spellings_of_values(flag: str, group: str, value: object) -> None:
    arguments = parse_serve(flag.split())
    owner = arguments.engine.model if hasattr(arguments.engine.model, group) else arguments.server.api
    assert getattr(owner, group) == value and arguments.notes == []


def test_a_token_that_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "stored")
    assert parse_serve(["m", "--hf-token"]).engine.model.hf_token == "stored"
    assert parse_serve(["m", "--hf-token", "--port=1"]).engine.model.hf_token == "stored"
    assert parse_serve(["m", "--hf-token", "mine"]).engine.model.hf_token == "mine"
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="hf auth login"):
        parse_serve(["m", "--hf-token"])


@pytest.mark.parametrize(
    "argv",
    [
        ["--served-model-name", "model", "user/model"],
        ["--served-model-name", "model"],
        ["--api-key", "secret", "user/model"],
    ],
)
def test_lists_that_have_taken_the_model_in_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="no model is named"):
        parse_serve(argv)
    assert parse_serve(["--model", "demo", *argv]).engine.model.model == "demo"


def test_lists_that_end_leave_the_model() -> None:
    for argv in (
        ["--allowed-origins", '["https://a"]', "user/model"],
        ["--served-model-name=x", "user/model"],
        ["--lora-modules", "a=b", "user/model"],
        ["--collect-detailed-traces", "model", "worker", "user/model"],
        ["--cudagraph-capture-sizes", "1", "2", "user/model"],
    ):
        assert parse_serve(argv).engine.model.model == "user/model"


def test_a_model_in_the_config_file_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: org/model\nlora-modules: [a=b, c=d]\n")
    arguments = parse_serve(["--config", str(tmp_path / "c.yaml"), "--served-model-name", "x"])
    assert arguments.engine.model.model == "org/model" and arguments.server.api.served_model_name == ("x",)
    assert len(arguments.notes) == 1


def test_keys_of_one_json_flag_warn_once() -> None:
    assert len(parse_serve(["--compilation-config.level", "3", "-O.mode=1"]).notes) == 1


def test_repository_code_is_not_asked_for_however_it_is_spelled() -> None:
    for argv in (["--trust-remote-code"], ["--trust_remote_code"]):
        assert parse_serve(argv).engine.model.trust_remote_code is False
    assert parse_serve(["--no-trust-remote-code"]).notes == []


def test_repository_code_is_not_asked_for_from_python_either(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="vllm_jax.config"):
        EngineConfig.from_flat(trust_remote_code=True).validate()
    assert "never run" in caplog.text and len(caplog.records) == 1


@pytest.mark.parametrize("name", ["float16", "half"])
def test_float16_is_computed_in_bfloat16_and_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    arguments = parse_serve(["--dtype", name])
    assert arguments.engine.model.dtype == "bfloat16"
    [note] = arguments.notes
    assert "--dtype float16" in note and "bfloat16" in note
    assert not caplog.records, "the note is enough"


def test_float16_from_python_says_so_too(caplog: pytest.LogCaptureFixture) -> None:
    EngineConfig.from_flat(dtype="float16").validate()
    assert [record.message for record in caplog.records] == [FLOAT16_NOTE]


def test_other_names_of_types() -> None:
    assert parse_serve(["--dtype", "float"]).engine.model.dtype == "float32"
    assert parse_serve(["--kv-cache-dtype", "fp8_e4m3"]).engine.cache.kv_cache_dtype == "fp8"


def test_harmless_values_say_nothing() -> None:
    argv = ["--pipeline-parallel-size", "1", "-dp=1", "--quantization", "none", "--no-async-scheduling"]
    assert parse_serve(argv).notes == []


def test_no_flag_is_both_a_setting_and_foreign() -> None:
    assert not set(settings()) & set(FOREIGN_FLAGS)


def test_config_file_is_below_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model: org/model\nport: 9000\nmax_num_seqs: 3\nserved-model-name: [a, b]\n"
        "enable-prefix-caching: false\n"
        "override-generation-config: {temperature: 0.1}\n"
        "enforce-eager: true\napi-key: [from-file]\nuds: null\n"
    )
    arguments = parse_serve(
        ["--config", str(file), "--port", "9001", "--enable-prefix-caching", "--api-key", "mine"]
    )
    assert arguments.engine.model.model == "org/model"
    assert arguments.engine.scheduler.max_num_seqs == 3
    assert arguments.engine.cache.enable_prefix_caching is True
    assert arguments.engine.model.override_generation_config == {"temperature": 0.1}
    assert arguments.server.http.port == 9001
    assert arguments.server.http.api_key == ("mine",)
    assert arguments.server.api.served_model_name == ("a", "b")
    assert len(arguments.notes) == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--max-num-seq", "3"], "did you mean --max-num-seqs"),
        (["--port", "http"], "--port"),
        (["--port"], "--port needs a value"),
        (["--port", "--api-key", "x"], "--port needs a value"),
        (["--port", "70000"], "--port"),
        (["--kv-cache-dtype", "fp4"], "--kv-cache-dtype"),
        (["--hf-overrides", "{"], "--hf-overrides"),
        (["--hf-overrides", "[1]"], "--hf-overrides"),
        (["--port.x", "1"], "takes no JSON"),
        (["--enable-prefix-caching=true"], "takes no value"),
        (["a", "b"], "'b'"),
        (["a", "--model", "b"], "--model"),
        (["--api-key"], "--api-key needs a value"),
        (["--api-key", " "], "--api-key"),
        (["--allowed-origins", "[1]"], "--allowed-origins"),
        (["--allowed-origins", "*", "--allow-credentials"], "--allow-credentials"),
        (["--quantization", "fp8"], "--quantization"),
        (["--enforce-eager", "--speculative-config"], "--speculative-config needs a value"),
        (["--headless"], "--headless"),
        (["--grpc"], "--grpc"),
        (["--logits-processors", "a:b"], "--logits-processors"),
        (["--logprobs-mode", "raw_logits"], "--logprobs-mode"),
        (["--hf-config-path", "x"], "--hf-config-path"),
        (["--rope-scaling", '{"factor": 2}'], "--hf-overrides"),
        (["--enforce-eager=true"], "takes no value"),
        (["--tool-call-parser", "deepseek_v32"], "--tool-call-parser"),
        (["--load-format", "pt"], "safetensors"),
        (["--quantization.bits", "4"], "--quantization"),
        (["--collect-detailed-traces", "user/model"], "--collect-detailed-traces needs a value"),
        (["--compilation-config.level"], "--compilation-config.level needs a value"),
        (["--reasoning-effort-map", '{"high": "max"}'], "--reasoning-effort-map"),
        (["--load-format", "runai_streamer"], "--load-format"),
        (["--help=nonsense"], "the groups are model, cache"),
        (["--ssl-keyfile", "k.pem"], "--ssl-certfile"),
        (["--shutdown-timeout", "-1"], "--shutdown-timeout"),
        (["--shutdown-timeout", "nan"], "--shutdown-timeout"),
        (["--max-model-len", "1.5"], "--max-model-len"),
        (["--config", "/no/such/file.yaml"], "--config"),
    ],
)
def test_wrong_command_lines_are_one_line_that_names_the_flag(argv: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_serve(argv)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "config: x.yaml\n", "no-such-flag: 1\n"])
def test_wrong_config_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError):
        parse_serve(["--config", str(tmp_path / "c.yaml")])


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_serve(["--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    for flag in settings():
        assert f"{flag} " in text or f"{flag}," in text, flag
    assert "engine.model" not in text


@pytest.mark.parametrize(
    ("topic", "shown", "hidden"),
    [
        ("http", "--sse-keep-alive-interval", "--max-num-seqs"),
        ("SchedulerConfig", "--max-num-seqs", "--block-size"),
        ("max-num-seqs", "--max-num-seqs", "--block-size"),
        ("--no-enable-prefix-caching", "--block-size", "--port"),
        ("frontend", "--chat-template", "--block-size"),
        ("all", "--block-size", "--spec-method"),
        ("enforce-eager", "has no effect", "--port"),
    ],
)
def test_help_about_one_thing(
    capsys: pytest.CaptureFixture[str], topic: str, shown: str, hidden: str
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_serve(["m", f"--help={topic}"])
    assert not end.value.code
    text = capsys.readouterr().out
    assert shown in text and hidden not in text


def test_the_introduction_of_the_help_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_serve(["--help"])
    introduction = capsys.readouterr().out.split("╭")[0]
    assert "--config" in introduction and max(map(len, introduction.splitlines())) <= 80
