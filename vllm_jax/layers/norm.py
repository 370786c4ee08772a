"""Layer norm and root-mean-square norm over the last axis.

Both compute in float32. They differ in where the result is rounded back to the model's dtype, because the
checkpoints were trained that way: layer norm scales and shifts first and rounds last; Llama's RMS norm
rounds the normalised value and then scales it in the model's dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def layer_norm(x: jax.Array, weight: jax.Array | None, bias: jax.Array | None, eps: float) -> jax.Array:
    """Ba, Kiros and Hinton 2016: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    Args:
        x: ``[..., F]`` any float dtype.
        weight: ``[F]`` or None for 1.
        bias: ``[F]`` or None for 0.
        eps: added to the (biased) variance.

    Returns:
        ``[..., F]`` in the dtype of ``x``, rounded once at the end.
    """
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    if weight is not None:
        y = y * weight.astype(jnp.float32)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(x.dtype)


def rms_norm(x: jax.Array, weight: jax.Array, eps: float, *, scale_in_float32: bool = False) -> jax.Array:
    """Zhang and Sennrich 2019: ``x / sqrt(mean(x^2) + eps) * weight``.

    Args:
        x: ``[..., F]`` any float dtype.
        weight: ``[F]``.
        eps: added to the mean square.
        scale_in_float32: round after the multiplication with ``weight`` (MosaicML) and not before (Llama).

    Returns:
        ``[..., F]`` in the dtype of ``x``.
    """
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    if scale_in_float32:
        return (y * weight.astype(jnp.float32)).astype(x.dtype)
    return y.astype(x.dtype) * weight.astype(x.dtype)


class LayerNorm(nnx.Module):
    """:func:`layer_norm` with ``weight [F]`` and an optional ``bias [F]``."""

    def __init__(self, features: int, *, eps: float = 1e-5, bias: bool, dtype: jnp.dtype):
        self.eps = eps
        self.weight = nnx.Param(jnp.ones((features,), dtype))
        self.bias = nnx.Param(jnp.zeros((features,), dtype)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x [..., F]`` -> ``[..., F]``, same dtype."""
        return layer_norm(x, self.weight[...], None if self.bias is None else self.bias[...], self.eps)


class RMSNorm(nnx.Module):
    """:func:`rms_norm` with ``weight [F]``."""

    def __init__(self, features: int, *, eps: float, dtype: jnp.dtype, scale_in_float32: bool = False):
        self.eps = eps
        self.scale_in_float32 = scale_in_float32
        self.weight = nnx.Param(jnp.ones((features,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x [..., F]`` -> ``[..., F]``, same dtype."""
        return rms_norm(x, self.weight[...], self.eps, scale_in_float32=self.scale_in_float32)
