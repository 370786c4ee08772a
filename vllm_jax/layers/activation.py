"""Activation functions that are computed in float32 and rounded once, as PyTorch computes them.

Knows their formulas. Does not know what stands before them: ``layers/linear.py`` can have the native kernel
do it together with a product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp

_FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "none": lambda x: x,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "gelu_tanh": partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
    }
)


def activate(x: jax.Array, name: str) -> jax.Array:
    """``name`` ("none", "gelu", "gelu_tanh", "relu", "silu") of ``x``, same shape and dtype.

    GELU is Hendrycks and Gimpel 2016 (arXiv:1606.08415), with the error function or with tanh.
    """
    return _FUNCTIONS[name](x.astype(jnp.float32)).astype(x.dtype)
