"""Which directories load, and what the errors of the others say."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer

from vllm_jax.errors import CheckpointError, ConfigError
from vllm_jax.tokenizer.loader import load_tokenizer


@pytest.fixture
def directory(tmp_path, directory_of):
    """A copy of the MPT directory, to be spoilt."""
    return shutil.copytree(directory_of("gpt_neox"), tmp_path / "model")


def change(path, **values):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


def test_no_directory(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_tokenizer(tmp_path / "nothing")


def test_no_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"--tokenizer, or .* --skip-tokenizer-init"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"model": '),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "nonsense"),
        ("special_tokens_map.json", "3"),
    ],
)
def test_broken_files(directory, name, content):
    (directory / name).write_text(content)
    with pytest.raises(CheckpointError, match=str(directory)) as caught:
        load_tokenizer(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"model": {"type": "Foo"}}', "model of type 'Foo'; known are BPE"),
        ('{"model": {"type": "BPE"}}', "tokenizer.json is no valid tokenizer: "),
        ('{"model": 5}', "tokenizer.json is no valid tokenizer: "),
    ],
)
def test_a_vocabulary_file_that_is_none_gets_a_reason(directory, content, says):
    (directory / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=says):
        load_tokenizer(directory)


def test_broken_chat_template(directory):
    change(directory / "tokenizer_config.json", chat_template=[{"name": "default"}])
    with pytest.raises(CheckpointError, match=r"chat_template in .*tokenizer_config\.json is neither"):
        load_tokenizer(directory)


@pytest.mark.parametrize("known_model", [True, False])
def test_repository_code_never_runs(directory, known_model):
    """Neither with a class that transformers knows nor with one it does not."""
    marker = directory / "it-ran"
    (directory / "own_tokenizer.py").write_text(f"open({str(marker)!r}, 'w')\nclass OwnTokenizer: pass\n")
    expected = load_tokenizer(directory).encode("I love programming")
    change(
        directory / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own_tokenizer.OwnTokenizer", None]},
    )
    if not known_model:
        change(directory / "config.json", model_type="own")
    assert load_tokenizer(directory).encode("I love programming") == expected
    assert not marker.exists()
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="auto_map, which is never run"):
        load_tokenizer(directory)
    assert not marker.exists()


def test_a_model_config_that_transformers_refuses_is_no_matter(directory):
    expected = load_tokenizer(directory).encode("I love programming")
    change(directory / "config.json", n_heads="many")
    assert load_tokenizer(directory).encode("I love programming") == expected
    (directory / "config.json").unlink()
    assert load_tokenizer(directory).encode("I love programming") == expected


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
        {
            "type": "Sequence",
            "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 0, "stop": 1}],
        },
    ],
)
def test_decoders_that_change_emitted_text_are_refused(directory, decoder):
    change(directory / "tokenizer.json", decoder=decoder)
    change(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    (directory / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"decoder (CTC|Strip after Fuse) cannot be streamed"):
        load_tokenizer(directory)


def test_chat_templates_are_found_as_by_transformers(directory):
    config = directory / "tokenizer_config.json"

    def found():
        ours, theirs = load_tokenizer(directory), AutoTokenizer.from_pretrained(directory).chat_template
        names = {"default": theirs} if isinstance(theirs, str) else theirs or {}
        assert {name: ours.get_chat_template(name) for name in names} == names
        return names

    assert found() == {}
    change(config, chat_template="one")
    assert found() == {"default": "one"}
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    change(config, chat_template=named)
    assert found() == {"default": "a", "tool_use": "b"}
    (directory / "chat_template.jinja").write_text("file")
    assert found() == {"default": "file"}
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "rag.jinja").write_text("more")
    assert found() == {"default": "file", "rag": "more"}
