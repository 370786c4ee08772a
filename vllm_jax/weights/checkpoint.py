"""A directory with safetensors files, seen as one mapping from tensor names to arrays.

Knows file names, the shard index, headers, and every way these can be broken. Does not know which tensors a
model wants: :mod:`vllm_jax.weights.loader` holds the names to a table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from vllm_jax.errors import CheckpointError
from vllm_jax.weights.files import listed, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

FLOAT_DTYPES: Mapping[str, np.dtype] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
"""The safetensors types weights may have. Integers and 8-bit floats mean quantization, which needs scales."""


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says of a tensor: ``dtype`` is the safetensors name, such as ``"BF16"``."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file; 0 for types that are no weights."""
        dtype = FLOAT_DTYPES.get(self.dtype)
        return 0 if dtype is None else int(np.prod(self.shape, dtype=np.int64)) * dtype.itemsize


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint directory; only headers have been read.

    Attributes:
        files: the safetensors files, in the order of their names.
        tensors: every tensor by name.
        problems: contradictions between the files, one sentence each; see :func:`open_checkpoint`.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    problems: tuple[str, ...] = ()

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor into host memory of its own.

        The file is mapped for this one call, so that what stays in memory is the array and nothing else.

        Raises:
            CheckpointError: the file cannot be read.
        """
        file = self.tensors[name].file
        try:
            with safe_open(file, framework="np") as opened:
                return opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read tensor {name} from {file}: {error}") from error


def open_checkpoint(directory: Path) -> Checkpoint:
    """Reads the headers of all safetensors files of a checkpoint.

    As in transformers, ``model.safetensors`` comes before ``model.safetensors.index.json``.

    Returns:
        The checkpoint. Where index and shards contradict each other it has ``problems``, so that the
        loader can report them together with all else that is wrong.

    Raises:
        CheckpointError: there are no safetensors files, the index is unreadable, or a file is missing,
            truncated or corrupt.
    """
    if (directory / SINGLE_FILE).is_file():
        file = directory / SINGLE_FILE
        return Checkpoint((file,), _read_header(file))
    if not (directory / INDEX_FILE).is_file():
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory")
        raise CheckpointError(why_no_safetensors(str(directory), [file.name for file in directory.iterdir()]))

    index = _read_index(directory / INDEX_FILE)
    shards = tuple(directory / name for name in sorted(set(index.values())))
    absent = [shard.name for shard in shards if not shard.is_file()]
    if absent:
        raise CheckpointError(f"{directory}: {INDEX_FILE} names files that are not there: {listed(absent)}")
    tensors: dict[str, TensorInfo] = {}
    problems: list[str] = []
    for shard in shards:
        for name, info in _read_header(shard).items():
            if name in tensors:
                problems.append(f"{name} is in {tensors[name].file.name} and again in {shard.name}")
            elif name not in index:
                problems.append(f"{name} is in {shard.name} but not in {INDEX_FILE}")
            elif index[name] != shard.name:
                problems.append(f"{name} is in {shard.name} but {INDEX_FILE} says {index[name]}")
            tensors.setdefault(name, info)
    gone = sorted(index.keys() - tensors.keys())
    problems += [f"{name} is not in {index[name]} though {INDEX_FILE} says so" for name in gone]
    return Checkpoint(shards, tensors, tuple(problems))


def _read_header(file: Path) -> dict[str, TensorInfo]:
    """Names, shapes and types of a file's tensors; checks that the file has the length its header says."""
    try:
        with safe_open(file, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return {
                name: TensorInfo(file, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error


def _read_index(file: Path) -> dict[str, str]:
    """The index's ``weight_map``: tensor name -> file name beside the index."""
    mapping = read_json(file).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"{file} has no weight_map")
    for name, shard in mapping.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{file}: {name} is mapped to {shard!r}, which is no safetensors file name")
    return mapping


def why_no_safetensors(where: str, names: Collection[str]) -> str:
    """One line that says what a directory or repository holds instead of safetensors, and what to do.

    Args:
        where: its path or hub id.
        names: the names of its files.
    """
    names = sorted(names)

    def ending(*suffixes: str) -> list[str]:
        return [name for name in names if name.endswith(suffixes)]

    if "adapter_config.json" in names:
        return f"{where} has a LoRA adapter, not a model; merge it into its base model first"
    if quantized := ending(".gguf", ".ggml"):
        return f"{where} has a GGUF checkpoint ({listed(quantized, 3)}); only safetensors are read"
    if pickled := ending(".bin", ".pt", ".pth", ".ckpt"):
        return (
            f"{where} has weights only in PyTorch's pickle format ({listed(pickled, 3)}), which can run "
            f"code when it is read and is refused. Convert it once where PyTorch is installed: "
            f"transformers.AutoModelForCausalLM.from_pretrained({where!r}, dtype='auto')"
            f".save_pretrained('NEW_DIRECTORY') writes safetensors; copy the tokenizer's files beside them"
        )
    if foreign := ending(".msgpack", ".h5", ".npz", ".onnx"):
        return f"{where} has weights in another format ({listed(foreign, 3)}); only safetensors are read"
    if other := ending(".safetensors"):
        return f"{where} has neither {SINGLE_FILE} nor {INDEX_FILE}, only {listed(other, 3)}"
    return f"{where} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is there"
