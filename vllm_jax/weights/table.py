"""What a checkpoint of a model family contains, as data.

Knows tensor names, shapes and where each tensor goes in the module tree. Does not know files, dtypes or
devices: :mod:`vllm_jax.weights.loader` reads the tensors and holds the checkpoint to this table.

A family writes a function ``weights(config) -> WeightTable``, one line a tensor::

    Weight("model.norm.weight", "norm.weight", (config.hidden_size,), ("embed",))

Logical axes in use (:data:`LOGICAL_AXES`): they name what an axis *is*; which mesh axis it is split over is
decided elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

LOGICAL_AXES = {
    "vocab": "entries of the vocabulary",
    "embed": "the residual stream",
    "heads": "query heads x head size",
    "kv_heads": "key/value heads x head size",
    "qkv": "query, key and value heads of a fused projection x head size",
    "head_dim": "inside one head",
    "mlp": "the MLP's inner width",
    "positions": "learned positions",
}
"""Every axis name a :class:`Weight` may use, and what it stands for."""


@dataclass(frozen=True)
class Weight:
    """One tensor of the checkpoint and the parameter it fills.

    Attributes:
        name: the tensor's name in the checkpoint, for example ``"model.layers.3.mlp.up_proj.weight"``.
        path: the parameter's dotted path in the nnx model, for example ``"layers.3.mlp.up_proj.weight"``.
        shape: the tensor's shape in the checkpoint.
        axes: one entry of :data:`LOGICAL_AXES` (or None) per axis of the *parameter*, for sharding.
        transform: host-side function from the checkpoint's array to the parameter's, where they differ.
        aliases: other names under which a checkpoint may store the very same tensor, as tied embeddings
            do. Any one of the names is enough; where several are present they must be equal.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = {axis for axis in self.axes if axis is not None} - LOGICAL_AXES.keys()
        if unknown:
            raise ValueError(f"{self.name}: unknown logical axes {sorted(unknown)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The tensor's name and its aliases."""
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class Ignorable:
    """Tensors that checkpoints carry but that hold nothing learned, and why it is right to skip them.

    ``pattern`` is a regular expression that must match the whole tensor name.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class WeightTable:
    """All tensors of a checkpoint.

    Attributes:
        weights: the tensors the model needs; checkpoint names and module paths are unique.
        ignorable: what else may be there without harm.
        prefix: the part of the names that is missing in checkpoints saved from the base model without
            its head, for example ``"model."``.
    """

    weights: tuple[Weight, ...]
    ignorable: tuple[Ignorable, ...] = ()
    prefix: str = ""

    def __post_init__(self) -> None:
        names = Counter(name for weight in self.weights for name in weight.names)
        paths = Counter(weight.path for weight in self.weights)
        twice = [key for counter in (names, paths) for key, count in counter.items() if count > 1]
        if twice:
            raise ValueError(f"weight table lists twice: {twice[:5]}")

    def for_checkpoint(self, names: Collection[str]) -> WeightTable:
        """This table in the spelling of a checkpoint with these tensor names.

        Returns the table itself, or, where no name starts with :attr:`prefix`, the table without it.
        """
        if not self.prefix or any(name.startswith(self.prefix) for name in names):
            return self

        def bare(name: str) -> str:
            return name.removeprefix(self.prefix)

        return WeightTable(
            weights=tuple(
                replace(weight, name=bare(weight.name), aliases=tuple(map(bare, weight.aliases)))
                for weight in self.weights
            ),
            ignorable=self.ignorable,
        )

    def reason_to_ignore(self, name: str) -> str | None:
        """Why a tensor of this name may be skipped, or None if it may not."""
        for ignorable in self.ignorable:
            if re.fullmatch(ignorable.pattern, name):
                return ignorable.reason
        return None
