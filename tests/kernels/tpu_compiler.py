"""Compiles for TPU topologies with libtpu, on a machine that has no TPU. Import before any device is used."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

HAVE_LIBTPU = importlib.util.find_spec("libtpu") is not None
CHIPS = {"v4": "v4:1x1x1", "v5e": "v5e:1x1", "v6e": "v6e:1x1", "v5p": "v5p:1x1x1", "tpu7x": "tpu7x:1x1x1"}

if HAVE_LIBTPU:
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        TPU_LOG_DIR="disabled",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    jax.config.update("jax_platforms", "cpu")


@lru_cache
def mesh(chip: str) -> Mesh:
    """One device of the chip; made once, because devices of two descriptions do not mix."""
    description = topologies.get_topology_desc(
        platform="tpu", topology_name=CHIPS[chip], chips_per_host_bounds=[1, 1, 1]
    )
    return Mesh(np.array(description.devices[:1]), ("x",))


@lru_cache
def four_devices() -> Mesh:
    """Four v6e devices on one axis."""
    description = topologies.get_topology_desc(platform="tpu", topology_name="v6e:2x2")
    return Mesh(np.array(description.devices), ("x",))


def compile_for(chip: str, function, arguments, donate: tuple[int, ...] = ()):
    """``jax.jit(function)`` compiled for one chip; the arguments are given by shape."""
    everywhere = NamedSharding(mesh(chip), PartitionSpec())
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), arguments)
    with jax.sharding.use_abstract_mesh(mesh(chip).abstract_mesh):
        lowered = jax.jit(lambda *x: function(*x), donate_argnums=donate).trace(*placed).lower()
    return lowered.compile()


def array(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    """An argument by shape."""
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
