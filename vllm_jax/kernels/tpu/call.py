"""What a kernel call consists of: its static sizes, and the references of its grid steps.

Knows no operation: ``kernel.py`` computes, ``copies.py`` moves, ``heads.py`` lays out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from vllm_jax.kernels.tpu.blocks import BlockSizes
from vllm_jax.kernels.tpu.layout import HeadUnits
from vllm_jax.kernels.tpu.plan import Pairs

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
"""The score of what a row must not see, and the peak of a row that has seen nothing."""


@dataclass(frozen=True)
class AttentionCall:
    """What is static in a kernel.

    Attributes:
        units: heads and where they lie.
        sizes: block sizes.
        page_size: tokens of a page.
        pages_per_seq: width of the page table.
        scale: multiplies the stored scores (the keys' scale is in it).
        value_scale: multiplies the result.
        sliding_window: see ``kernels/attention.py``.
        soft_cap: see ``kernels/attention.py``.
        writes: whether the steps write their new token.
        flat: whether queries and results are as the model has them, and heads are laid out here.
    """

    units: HeadUnits
    sizes: BlockSizes
    page_size: int
    pages_per_seq: int
    scale: float
    value_scale: float
    sliding_window: int | None
    soft_cap: float | None
    writes: bool
    flat: bool

    @property
    def one_token(self) -> bool:
        """Whether a block of queries is a token: decode."""
        return self.sizes.q_tokens == 1


@dataclass(frozen=True)
class Refs:
    """The references of one call. Scalars in SMEM: those of :class:`Pairs`, and ``table [S * P]``.

    ``slopes`` and ``sinks [U, M, 128]`` or None and ``new [L, 128]`` or None are VMEM blocks, ``pages
    [N, L, page / group, group, 128]`` is in HBM. ``buffers [2, L, C / group, group, 128]``, ``peak``, ``total
    [U, M, 128]`` (equal lanes), ``acc [U, M, W]``, ``written [L, group, 128]`` and ``token
    [L, 128]`` (``new``, widened) stay from step to step; ``turn [1]`` is the buffer whose turn it is.

    ``q [U, M, W]`` and ``out [U, M, W]`` are VMEM blocks. In a flat call ``flat_q`` and ``out`` are blocks
    ``[B, H * D]``, or ``[H, D]`` of one token, and ``q`` is scratch, filled at the beginning of a step.
    """

    pairs: Pairs
    table: Any
    flat_q: Any
    q: Any
    slopes: Any
    sinks: Any
    new: Any
    out: Any
    pages: Any
    buffers: Any
    arrived: Any
    peak: Any
    total: Any
    acc: Any
    turn: Any
    written: Any
    token: Any
    sent: Any
