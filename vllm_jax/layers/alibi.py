"""Slopes of ALiBi, attention with linear biases (Press, Smith and Lewis 2021, arXiv:2108.12409)."""

from __future__ import annotations

import numpy as np


def alibi_slopes(num_heads: int, bias_max: float = 8.0) -> tuple[float, ...]:
    """The slope of every query head, float32 values.

    For a power of two, head ``h`` (from 1) has ``2 ** (-bias_max * h / num_heads)``. For any other count
    MosaicML takes the slopes of the next power of two, first every second one beginning with the second,
    then those left out, and cuts the list off. (The paper's own code, and Bloom with it, do it differently.)

    Args:
        num_heads: any positive count.
        bias_max: the exponent of the last head's slope, ``alibi_bias_max`` in MPT's config.

    Returns:
        ``num_heads`` positive floats, exactly representable in float32.
    """
    power = 1 << (num_heads - 1).bit_length()
    exponents = np.arange(1, power + 1, dtype=np.float64) * (bias_max / power)
    slopes = np.exp2(-exponents).astype(np.float32)
    if power != num_heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:num_heads]
    return tuple(float(slope) for slope in slopes)
