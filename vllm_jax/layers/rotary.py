"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864) and the ways to stretch them.

Knows frequencies, angles and the rotation of heads in the half-split layout of Hugging Face checkpoints
(feature ``i`` is paired with ``i + D/2``). Does not know configs: ``models/rope_config.py`` reads those.

The frequencies are computed once on the host in float32, operation by operation in the order of the
implementation that the checkpoints are compared with, because at position 100,000 an error in the last bit
of a frequency is an error of several thousandths of a radian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Rotary:
    """Frequencies of a model's rotary embedding. Static: hashable, holds no arrays.

    Attributes:
        inv_freq: ``head_dim / 2`` angles per position, in radians; each is a float32 value.
        attention_scaling: multiplies cos and sin (YaRN's temperature, once for q and once for k).
    """

    inv_freq: tuple[float, ...]
    attention_scaling: float = 1.0

    def cos_sin(self, positions: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines of all angles, computed in float32 and rounded to ``dtype`` once.

        Args:
            positions: ``[T]`` int32.
            dtype: of the results.

        Returns:
            ``cos [T, D/2]`` and ``sin [T, D/2]``.
        """
        angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(self.inv_freq, jnp.float32)
        scale = self.attention_scaling
        return (jnp.cos(angles) * scale).astype(dtype), (jnp.sin(angles) * scale).astype(dtype)


def apply_rotary(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates every pair ``(x[i], x[i + D/2])`` of every head by its token's angles.

    Args:
        x: ``[T, H, D]`` queries or keys.
        cos: ``[T, D/2]`` in the dtype of ``x``.
        sin: as ``cos``.

    Returns:
        ``[T, H, D]`` in the dtype of ``x``.
    """
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rope_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """``theta ** (-2i / D)`` -> ``[D/2]`` float32."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1.0) / np.power(np.float32(theta), exponent)


def linear_frequencies(inv_freq: np.ndarray, factor: float) -> np.ndarray:
    """Position interpolation (Chen et al. 2023, arXiv:2306.15595): all positions divided by ``factor``."""
    return inv_freq / np.float32(factor)


def llama3_frequencies(
    inv_freq: np.ndarray,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_length: int,
) -> np.ndarray:
    """Llama 3.1's stretching: long wavelengths divided by ``factor``, short ones kept, a ramp between.

    Args:
        inv_freq: ``[D/2]`` float32 unscaled frequencies.
        factor: how much the context grows.
        low_freq_factor: wavelengths above ``original_length / low_freq_factor`` are divided in full.
        high_freq_factor: wavelengths below ``original_length / high_freq_factor`` are kept.
        original_length: context of the pretraining in tokens.

    Returns:
        ``[D/2]`` float32.
    """
    wavelength = np.float32(2 * math.pi) / inv_freq
    keep = (np.float32(original_length) / wavelength - np.float32(low_freq_factor)) / np.float32(
        high_freq_factor - low_freq_factor
    )
    divided = inv_freq / np.float32(factor)
    blended = (np.float32(1) - keep) * divided + keep * inv_freq
    return np.where(
        wavelength > original_length / low_freq_factor,
        divided,
        np.where(wavelength < original_length / high_freq_factor, inv_freq, blended),
    )


def yarn_frequencies(
    head_dim: int,
    theta: float,
    *,
    factor: float,
    original_length: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> np.ndarray:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): interpolates features that turn slowly, keeps fast ones.

    Args:
        head_dim: features ``D`` of a head.
        theta: base of the frequencies.
        factor: how much the context grows.
        original_length: context of the pretraining in tokens.
        beta_fast: features with more turns than this over the original context are kept.
        beta_slow: features with fewer turns than this are divided by ``factor`` in full.
        truncate: round the ramp's ends outwards to whole features.

    Returns:
        ``[D/2]`` float32.
    """

    def feature_of(turns: float) -> float:
        return head_dim * math.log(original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = feature_of(beta_fast), feature_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a step instead of a ramp
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    keep = np.float32(1) - np.clip(ramp, 0, 1)
    wavelength = np.power(
        np.float32(theta), np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    )
    divided = np.float32(1) / (np.float32(factor) * wavelength)
    return divided * (np.float32(1) - keep) + np.float32(1) / wavelength * keep


def yarn_attention_scaling(factor: float, mscale: float | None, mscale_all_dim: float | None) -> float:
    """YaRN's scaling of cos and sin where the config gives none: ``0.1 ln(factor) + 1``.

    With both ``mscale`` and ``mscale_all_dim`` (DeepSeek) it is the quotient of the two scaled forms.
    """

    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return temperature(mscale) / temperature(mscale_all_dim)
    return temperature(1.0)
