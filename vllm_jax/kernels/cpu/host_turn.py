"""The end of a step on the CPU: one core is left to the host, by ``native/host_turn.cc``.

Knows how to say so in a program. Does not know what the host does with its core; ``native/team.h`` says
why it should have one.
"""

from __future__ import annotations

import jax
import numpy as np

from vllm_jax.kernels.cpu.library import available

TARGET = "vllm_jax_host_turn"


def leave_a_core(x: jax.Array, *, microseconds: int) -> jax.Array:
    """``x``, of any shape and dtype, as it is; then the native kernels take one thread less for so long.

    In programs for other devices than the CPU, and without the native kernels, it is ``x`` and nothing else.
    """
    if not available():
        return x
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype), has_side_effect=True)
    return jax.lax.platform_dependent(
        x, cpu=lambda x: call(x, microseconds=np.int64(microseconds)), default=lambda x: x
    )
