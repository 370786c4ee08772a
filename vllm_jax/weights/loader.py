"""Checkpoint directory -> nnx model with arrays on the devices.

    headers of all files  ->  accounting against the table  ->  tensor by tensor:  file -> host -> device

Knows how to hold a checkpoint to a :class:`~vllm_jax.weights.table.WeightTable` and how to fill a model with
it. Does not know any model family, nor where a checkpoint comes from.

The accounting comes first and reads headers only: a checkpoint that does not fit is refused at once, with
everything that is wrong in one error. The host holds one tensor at a time (two while tied ones are compared).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from vllm_jax.errors import CheckpointError
from vllm_jax.weights.checkpoint import FLOAT_DTYPES, Checkpoint, open_checkpoint
from vllm_jax.weights.files import listed
from vllm_jax.weights.table import Weight, WeightTable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total); first with 0 done, last with all."""

Place = Callable[[Weight, np.ndarray], jax.Array]
"""Puts a parameter's host array, already in its dtype, onto the device or devices."""

MAX_NAMES = 8
"""Names an error lists of each kind of problem."""


@dataclass(frozen=True)
class LoadedInfo:
    """What was loaded.

    Attributes:
        num_tensors: parameters of the model.
        num_parameters: numbers in them; a tied embedding counts once.
        num_bytes: bytes they take on the devices.
        dtype: of the model, for example ``"bfloat16"``.
        files: the safetensors files read; empty for random weights.
    """

    num_tensors: int
    num_parameters: int
    num_bytes: int
    dtype: str
    files: tuple[Path, ...] = ()


def load_weights(
    build: Callable[[], nnx.Module],
    table: WeightTable,
    directory: Path,
    *,
    progress: Progress | None = None,
    place: Place | None = None,
) -> tuple[nnx.Module, tuple[Path, ...]]:
    """Builds a model and fills it from the safetensors of a directory.

    Args:
        build: makes the model with freshly drawn parameters; it is only traced, nothing is computed. The
            parameters' dtypes are those of the loaded model, whatever the files store.
        table: what the checkpoint has to contain.
        directory: the checkpoint.
        progress: is told how far the loading is.
        place: puts arrays onto devices. The default is a copy on JAX's default device.

    Returns:
        The model, and the files it was read from.

    Raises:
        CheckpointError: a file is unreadable, or tensors are missing, extra, misshapen, of a type that is
            not a plain float, stored twice, or tied in the config but different in the file. Everything
            that the headers show is reported together, by name.
        ValueError: the table does not fit the model, which is a mistake in the family's file.
    """
    checkpoint = open_checkpoint(directory)
    table = table.for_checkpoint(checkpoint.tensors.keys())
    check_names(checkpoint, table, directory)
    model = nnx.eval_shape(build)
    parameters = parameters_by_path(model)
    if {weight.path for weight in table.weights} != parameters.keys():
        odd = {weight.path for weight in table.weights} ^ parameters.keys()
        raise ValueError(f"weight table and model do not have the same parameters: {sorted(odd)[:MAX_NAMES]}")

    stored = checkpoint.tensors
    sources = [(weight, [name for name in weight.names if name in stored]) for weight in table.weights]
    # In the order of the files, so that each is read in one go.
    sources.sort(key=lambda source: stored[source[1][0]].file.name)
    report = progress or _ignore
    place = place or _copy_to_default_device
    done, total = 0, sum(stored[name].nbytes for _, names in sources for name in names)
    report(done, total)
    for weight, names in sources:
        array = checkpoint.read(names[0])
        for other in names[1:]:
            _check_tied(names[0], array, other, checkpoint.read(other), directory)
        parameter = parameters[weight.path]
        # Waiting for the copy keeps the host from reading ahead of the device.
        parameter.set_value(jax.block_until_ready(place(weight, _converted(weight, array, parameter))))
        done += sum(stored[name].nbytes for name in names)
        report(done, total)
    return model, checkpoint.files


def check_names(checkpoint: Checkpoint, table: WeightTable, directory: Path) -> None:
    """Holds the checkpoint's headers to the table.

    Raises:
        CheckpointError: with all problems of all tensors, at most :data:`MAX_NAMES` of a kind.
    """
    wanted = {name: weight for weight in table.weights for name in weight.names}
    stored = checkpoint.tensors
    missing = [weight.name for weight in table.weights if not any(name in stored for name in weight.names)]
    extra, misshapen, mistyped = [], [], []
    for name, info in sorted(stored.items()):
        if name not in wanted:
            if table.reason_to_ignore(name) is None:
                extra.append(name)
            continue
        if info.shape != wanted[name].shape:
            misshapen.append(f"{name} (has {_shape(info.shape)}, needs {_shape(wanted[name].shape)})")
        if info.dtype not in FLOAT_DTYPES:
            mistyped.append(f"{name} ({info.dtype})")
    found = {
        "missing": missing,
        "not part of the model": extra,
        "of the wrong shape": misshapen,
        f"of a type that is not one of {', '.join(FLOAT_DTYPES)}": mistyped,
        "contradictory": list(checkpoint.problems),
    }
    problems = [f"{len(names)} {kind}: {listed(names, MAX_NAMES)}" for kind, names in found.items() if names]
    if problems:
        raise CheckpointError(f"{directory} does not fit its config.json. Tensors " + "; ".join(problems))


def parameters_by_path(model: nnx.Module) -> dict[str, nnx.Param]:
    """The model's parameters by dotted path, for example ``"layers.0.attn.q_proj.weight"``.

    Raises:
        ValueError: the model has variables that are no parameters; constants belong into the code.
    """
    parameters: dict[str, nnx.Param] = {}
    for path, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param):
            parameters[".".join(str(part) for part in path)] = variable
        elif isinstance(variable, nnx.Variable):
            raise ValueError(f"{'.'.join(map(str, path))} is a {type(variable).__name__}, not a parameter")
    return parameters


def describe(model: nnx.Module, dtype: Any, files: tuple[Path, ...] = ()) -> LoadedInfo:
    """Counts a model's parameters."""
    arrays = [parameter[...] for parameter in parameters_by_path(model).values()]
    return LoadedInfo(
        num_tensors=len(arrays),
        num_parameters=sum(array.size for array in arrays),
        num_bytes=sum(array.nbytes for array in arrays),
        dtype=str(np.dtype(dtype)),
        files=files,
    )


def _converted(weight: Weight, array: np.ndarray, parameter: nnx.Param) -> np.ndarray:
    """The checkpoint's array as the parameter wants it: transformed, in its dtype."""
    if weight.transform is not None:
        array = weight.transform(array)
    if array.shape != parameter.shape:
        raise ValueError(
            f"{weight.name} becomes {array.shape}, but {weight.path} has shape {parameter.shape}"
        )
    return array.astype(parameter.dtype, copy=False)


def _ignore(done: int, total: int) -> None:
    """Stands in for a caller without a progress bar."""


def _copy_to_default_device(_: Weight, array: np.ndarray) -> jax.Array:
    # may_alias=False: on CPU the parameter must not share memory with a host array somebody else holds.
    return jax.device_put(array, may_alias=False)


def _check_tied(name: str, array: np.ndarray, other: str, copy: np.ndarray, directory: Path) -> None:
    if not np.array_equal(array.astype(copy.dtype), copy):
        raise CheckpointError(
            f"{directory}: the config ties {name} and {other} together, but the checkpoint stores different "
            f"values for them. If the model is not tied, set tie_word_embeddings to false in config.json"
        )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
