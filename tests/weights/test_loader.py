"""Loading checkpoints: what arrives, what the accounting says, what broken files say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from safetensors.numpy import load_file, save_file

from vllm_jax.errors import CheckpointError
from vllm_jax.models.load import load_model
from vllm_jax.weights.loader import MAX_NAMES, parameters_by_path

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
K_PROJ = "model.layers.0.self_attn.k_proj.weight"


def make(directory: Path, *, sizes: dict | None = None, dtype=torch.float32, **save) -> Path:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **(sizes or {})}))
    model.to(dtype).save_pretrained(directory, **save)
    return directory


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    make(root / "single")
    make(root / "tied", sizes={"tie_word_embeddings": True})
    make(root / "sharded", max_shard_size="20KB")
    return root


@pytest.fixture
def checkpoint(originals, tmp_path):
    """``name -> fresh copy`` of one of the originals, to be broken."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(originals / name, tmp_path / name))

    return copy


def load(directory: Path, dtype="float32", **settings):
    config = json.loads((directory / "config.json").read_text())
    return load_model(directory, config, dtype=jnp.dtype(dtype), **settings)


def edit(directory: Path, change) -> None:
    """Rewrites ``model.safetensors`` after ``change(tensors)``."""
    file = directory / "model.safetensors"
    tensors = {name: array.copy() for name, array in load_file(file).items()}
    change(tensors)
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def refused(directory: Path, **settings) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(directory, **settings)
    text = str(caught.value)
    assert "\n" not in text, "one readable line"
    return text


# What arrives


@pytest.mark.parametrize("name", ["single", "sharded"])
def test_every_parameter_has_the_values_of_the_file(name, originals):
    loaded = load(originals / name)
    stored = {}
    for file in (originals / name).glob("*.safetensors"):
        stored |= load_file(file)
    table = loaded.family.weights(loaded.config)
    parameters = parameters_by_path(loaded.model)
    assert len(parameters) == len(stored) == len(table.weights)
    for weight in table.weights:
        np.testing.assert_array_equal(parameters[weight.path][...], stored[weight.name])
        assert isinstance(parameters[weight.path][...], jax.Array)
        assert len(weight.axes) == parameters[weight.path].ndim
    assert loaded.info.num_parameters == sum(array.size for array in stored.values())
    assert loaded.info.num_bytes == sum(array.nbytes for array in stored.values())
    assert len(loaded.info.files) == len(list((originals / name).glob("*.safetensors")))
    assert name == "single" or len(loaded.info.files) >= 3


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_types_are_converted(stored, wanted, tmp_path):
    directory = make(tmp_path, dtype=stored)
    parameter = parameters_by_path(load(directory, wanted).model)["layers.1.attn.q_proj.weight"][...]
    assert parameter.dtype == wanted
    expected = load_file(directory / "model.safetensors")[Q_PROJ]
    np.testing.assert_array_equal(parameter, expected.astype(jnp.dtype(wanted)))


def test_tied_checkpoints_with_and_without_the_copy(checkpoint):
    directory = checkpoint("tied")
    assert "lm_head.weight" not in load_file(directory / "model.safetensors")
    without = load(directory)
    edit(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    with_copy = load(directory)
    assert without.info.num_parameters == with_copy.info.num_parameters

    def only_the_head(tensors):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    edit(directory, only_the_head)
    for loaded in (with_copy, load(directory)):
        for path, parameter in parameters_by_path(loaded.model).items():
            np.testing.assert_array_equal(parameter[...], parameters_by_path(without.model)[path][...])


def test_a_checkpoint_of_the_base_model_has_no_prefix(checkpoint):
    directory = checkpoint("tied")
    expected = parameters_by_path(load(directory).model)

    def bare(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit(directory, bare)
    for path, parameter in parameters_by_path(load(directory).model).items():
        np.testing.assert_array_equal(parameter[...], expected[path][...])


def test_old_rotary_buffers_are_skipped(checkpoint):
    directory = checkpoint("single")
    buffer = np.ones(4, np.float32)
    edit(directory, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": buffer}))
    load(directory)
    edit(directory, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.cos": buffer}))
    assert "1 not part of the model: model.layers.0.self_attn.rotary_emb.cos" in refused(directory)


def test_progress_goes_from_nothing_to_all_bytes(originals):
    calls = []
    loaded = load(originals / "sharded", progress=lambda done, total: calls.append((done, total)))
    done = [d for d, _ in calls]
    assert done[0] == 0 and done == sorted(done) and len(set(done)) == len(done)
    assert {total for _, total in calls} == {loaded.info.num_bytes} == {done[-1]}


def test_placement_is_the_callers(originals):
    seen = []

    def place(weight, array):
        seen.append(weight.path)
        return jax.device_put(array, jax.devices()[0])

    loaded = load(originals / "single", place=place)
    assert sorted(seen) == sorted(parameters_by_path(loaded.model))


def test_parameters_do_not_alias_the_file(checkpoint):
    """Overwriting the file in place must not change a served model."""
    directory = checkpoint("single")
    model = load(directory).model
    before = np.array(model.layers[0].mlp.up_proj.weight[...])
    file = directory / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(-40_000, 2)
        opened.write(b"\xff" * 40_000)
    np.testing.assert_array_equal(model.layers[0].mlp.up_proj.weight[...], before)


# What the accounting says


def test_missing_extra_misshapen_mistyped_are_reported_together(checkpoint):
    directory = checkpoint("single")

    def spoil(tensors):
        del tensors[Q_PROJ]
        tensors["model.layers.7.surplus"] = np.zeros(3, np.float32)
        tensors[K_PROJ] = tensors[K_PROJ].reshape(32, 16).copy()
        tensors["model.norm.weight"] = np.ones(32, np.int8)

    edit(directory, spoil)
    text = refused(directory)
    assert f"1 missing: {Q_PROJ}" in text
    assert "1 not part of the model: model.layers.7.surplus" in text
    assert f"1 of the wrong shape: {K_PROJ} (has 32x16, needs 16x32)" in text
    assert "model.norm.weight (I8)" in text and str(directory) in text


def test_a_renamed_tensor_is_both_missing_and_extra(checkpoint):
    directory = checkpoint("single")
    edit(directory, lambda t: t.update({"model.layers.1.self_attn.query.weight": t.pop(Q_PROJ)}))
    text = refused(directory)
    assert f"1 missing: {Q_PROJ}" in text
    assert "1 not part of the model: model.layers.1.self_attn.query.weight" in text


def test_long_lists_are_cut(checkpoint):
    directory = checkpoint("single")
    edit(directory, lambda t: t.update({f"extra.{i:03}": np.zeros(1, np.float32) for i in range(50)}))
    text = refused(directory)
    assert "50 not part of the model: extra.000" in text and f"{50 - MAX_NAMES} more" in text
    assert len(text) < 1000


def test_untied_without_an_output_layer(checkpoint):
    directory = checkpoint("single")
    edit(directory, lambda t: t.pop("lm_head.weight"))
    assert "1 missing: lm_head.weight" in refused(directory)


def test_tied_but_different(checkpoint):
    directory = checkpoint("tied")
    edit(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    text = refused(directory)
    assert "lm_head.weight" in text and "embed_tokens" in text and "tie_word_embeddings" in text


def test_a_bias_the_config_does_not_have(checkpoint):
    directory = checkpoint("single")
    edit(directory, lambda t: t.update({"model.layers.0.mlp.up_proj.bias": np.zeros(48, np.float32)}))
    assert "not part of the model: model.layers.0.mlp.up_proj.bias" in refused(directory)


def test_eight_bit_floats(checkpoint):
    directory = checkpoint("single")
    weights = {
        name: torch.tensor(array) for name, array in load_file(directory / "model.safetensors").items()
    }
    weights[Q_PROJ] = weights[Q_PROJ].to(torch.float8_e4m3fn)
    safetensors.torch.save_file(weights, directory / "model.safetensors")
    assert f"{Q_PROJ} (F8_E4M3)" in refused(directory)


# What broken files say


def rewrite_index(directory: Path, change) -> None:
    file = directory / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def test_shards_and_index_that_contradict_each_other(checkpoint):
    directory = checkpoint("sharded")
    shards = sorted(file.name for file in directory.glob("*.safetensors"))
    owner = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    elsewhere = next(shard for shard in shards if shard != owner[Q_PROJ])

    def change(weight_map):
        weight_map[Q_PROJ] = elsewhere
        del weight_map[K_PROJ]
        weight_map["model.ghost"] = shards[0]

    rewrite_index(directory, change)
    text = refused(directory)
    assert "3 contradictory" in text
    assert f"{Q_PROJ} is in {owner[Q_PROJ]} but" in text and f"{K_PROJ} is in" in text
    assert f"model.ghost is not in {shards[0]}" in text


def test_a_tensor_in_two_shards(checkpoint):
    directory = checkpoint("sharded")
    first, second = sorted(directory.glob("*.safetensors"))[:2]
    tensors = load_file(first)
    name = next(iter(load_file(second)))
    tensors[name] = load_file(second)[name]
    save_file(tensors, directory / "copy.safetensors")
    (directory / "copy.safetensors").replace(first)
    assert f"{name} is in {first.name} and again in {second.name}" in refused(directory)


def test_a_shard_that_is_not_there(checkpoint):
    directory = checkpoint("sharded")
    gone = sorted(directory.glob("*.safetensors"))[1]
    gone.unlink()
    assert gone.name in refused(directory)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "model.bin", 3])
def test_an_index_that_points_elsewhere(checkpoint, shard):
    directory = checkpoint("sharded")
    rewrite_index(directory, lambda weight_map: weight_map.update({Q_PROJ: shard}))
    text = refused(directory)
    assert Q_PROJ in text and "no safetensors file name" in text


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": {}}'])
def test_an_index_that_is_no_index(checkpoint, content):
    directory = checkpoint("sharded")
    (directory / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refused(directory)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def cut_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def lfs_pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def noise(file: Path) -> None:
    file.write_bytes(b"\xff" * 1000)


@pytest.mark.parametrize("harm", [cut, cut_in_the_header, empty, lfs_pointer, noise])
@pytest.mark.parametrize("name", ["single", "sharded"])
def test_truncated_and_corrupt_files(checkpoint, harm, name):
    directory = checkpoint(name)
    file = sorted(directory.glob("*.safetensors"))[0]
    harm(file)
    assert f"{file} is not a readable safetensors file" in refused(directory)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pytorch_model.bin"], r"pytorch_model.bin.*save_pretrained"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "00001.*save_pretrained"),
        (["model.Q4_K_M.gguf"], "GGUF"),
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA"),
        (["tf_model.h5"], "another format"),
        (["consolidated.safetensors"], "neither model.safetensors"),
        ([], "no weights"),
    ],
)
def test_other_formats_are_refused_with_advice(originals, tmp_path, files, message):
    shutil.copy(originals / "single" / "config.json", tmp_path)
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    assert re.search(message, refused(tmp_path))


def test_no_such_directory(originals, tmp_path):
    config = json.loads((originals / "single" / "config.json").read_text())
    with pytest.raises(CheckpointError, match="not a directory"):
        load_model(tmp_path / "gone", config, dtype=jnp.dtype("float32"))


def test_bfloat16_survives_bit_by_bit(tmp_path):
    directory = make(tmp_path, dtype=torch.bfloat16)
    expected = load_file(directory / "model.safetensors")[Q_PROJ]
    assert expected.dtype == ml_dtypes.bfloat16
    actual = parameters_by_path(load(directory, "bfloat16").model)["layers.1.attn.q_proj.weight"][...]
    np.testing.assert_array_equal(np.asarray(actual).view(np.uint16), expected.view(np.uint16))
