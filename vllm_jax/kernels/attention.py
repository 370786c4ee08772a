"""The one place where an attention implementation is chosen, and the pages' layout with it.

Knows the names of the implementations and what each wants from its caller. Does not know how any of them
works. A new backend is a module with ``paged_attention`` and one more line in :data:`IMPLEMENTATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp

from vllm_jax.errors import ConfigError
from vllm_jax.kernels import pages, reference, xla
from vllm_jax.kernels.cpu import attention as cpu
from vllm_jax.kernels.gpu import attention as gpu
from vllm_jax.kernels.metadata import AttentionMetadata
from vllm_jax.kernels.pages import check_combination
from vllm_jax.kernels.tpu import attention as tpu


@dataclass(frozen=True)
class Implementation:
    """A way to compute paged attention.

    Attributes:
        attend: the function behind :func:`paged_attention`.
        pages_shape: ``(num_pages, page_size, num_kv_heads, head_dim)`` -> shape of one layer's pages.
        pages_dtype: dtype of keys and values -> dtype in which the pages store them.
        page_size: tokens a page holds where the user has no wish.
        check: ``(num_heads, num_kv_heads, head_dim, page_size, kv_dtype)`` -> None; raises ConfigError, with
            the reason, where the implementation cannot do it.
        platforms: the JAX platforms it runs on; None for all.
        rotates: whether ``attend`` takes ``rotary`` and rotates queries and keys as it reads them.
    """

    attend: Callable[..., tuple[jax.Array, jax.Array]]
    pages_shape: Callable[[int, int, int, int], tuple[int, ...]]
    pages_dtype: Callable[[jnp.dtype], jnp.dtype]
    page_size: int
    check: Callable[[int, int, int, int, jnp.dtype], None] = check_combination
    platforms: frozenset[str] | None = None
    rotates: bool = False


IMPLEMENTATIONS: Mapping[str, Implementation] = MappingProxyType(
    {
        "reference": Implementation(
            reference.paged_attention, pages.pages_shape, pages.pages_dtype, page_size=16
        ),
        "xla": Implementation(xla.paged_attention, pages.pages_shape, pages.pages_dtype, page_size=16),
        "cpu": Implementation(
            cpu.paged_attention,
            cpu.pages_shape,
            cpu.pages_dtype,
            page_size=16,
            check=cpu.check_combination,
            platforms=frozenset({"cpu"}),
            rotates=True,
        ),
        "gpu": Implementation(
            gpu.paged_attention,
            gpu.pages_shape,
            gpu.pages_dtype,
            page_size=gpu.PAGE_SIZE,
            check=gpu.check_combination,
            platforms=frozenset({"gpu"}),
        ),
        "tpu": Implementation(
            tpu.paged_attention,
            tpu.pages_shape,
            tpu.pages_dtype,
            page_size=tpu.PAGE_SIZE,
            check=tpu.check_combination,
            platforms=frozenset({"tpu"}),
        ),
    }
)

PLATFORM_IMPLEMENTATION: Mapping[str, str] = MappingProxyType({"cpu": "cpu", "gpu": "gpu", "tpu": "tpu"})
"""The implementation a server takes on each JAX platform; on a CPU without the native kernels "xla"."""


def implementation_for(platform: str, wanted: str = "auto") -> str:
    """Name of the implementation for a JAX platform ("cpu", "gpu", "tpu").

    Args:
        platform: of the devices that will run it.
        wanted: a name that forces one, or "auto" for the platform's own.

    Raises:
        ConfigError: there is none for this platform, or the one that is wanted does not run there.
    """
    if wanted != "auto":
        platforms = get_implementation(wanted).platforms
        if platforms is not None and platform not in platforms:
            raise ConfigError(
                f"the attention implementation {wanted!r} runs on {', '.join(sorted(platforms))}, "
                f"but the device is a {platform}"
            )
        return wanted
    if platform not in PLATFORM_IMPLEMENTATION:
        supported = ", ".join(sorted(PLATFORM_IMPLEMENTATION))
        raise ConfigError(
            f"paged attention has no implementation for the platform {platform!r} (supported: {supported}); "
            "--attention-implementation xla runs everywhere, slowly"
        )
    if platform == "cpu" and not cpu.available():
        return "xla"
    return PLATFORM_IMPLEMENTATION[platform]


def get_implementation(name: str) -> Implementation:
    """The implementation of that name.

    Raises:
        ConfigError: there is none; the text lists those there are.
    """
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f"unknown attention implementation {name!r}; one of {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]


def kv_pages_shape(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, *, implementation: str = "xla"
) -> tuple[int, ...]:
    """Shape of one layer's KV pages in the implementation's own layout."""
    return get_implementation(implementation).pages_shape(num_pages, page_size, num_kv_heads, head_dim)


def kv_pages_dtype(dtype: jnp.dtype, *, implementation: str = "xla") -> jnp.dtype:
    """The dtype to allocate pages with, for keys and values of ``dtype``. All zero bits mean 0.0."""
    return get_implementation(implementation).pages_dtype(dtype)


def paged_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_pages: jax.Array,
    metadata: AttentionMetadata,
    *,
    scale: float,
    alibi_slopes: jax.Array | None = None,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    sinks: jax.Array | None = None,
    k_scale: float | None = None,
    v_scale: float | None = None,
    rotary: tuple[jax.Array, jax.Array] | None = None,
    implementation: str,
) -> tuple[jax.Array, jax.Array]:
    """Writes a ragged batch's keys and values into the pages and attends over the whole contexts.

    Args:
        q: ``[T, H, D]`` queries of the flat batch.
        k: ``[T, KH, D]`` new keys; ``H`` is a multiple of ``KH``, neighbouring query heads share a KV head.
        v: ``[T, KH, D]`` new values.
        kv_pages: one layer's pages, allocated with :func:`kv_pages_shape` and :func:`kv_pages_dtype`;
            donate them to the jitted step.
        metadata: which token belongs to which sequence, and where its pages lie.
        scale: multiplies ``q . k``.
        alibi_slopes: ``[H]`` float32; ``slope * (key_position - query_position)`` is added to the score.
        sliding_window: a key is visible iff ``query_position - window < key_position <= query_position``.
        soft_cap: ``cap * tanh(score / cap)`` is taken before the ALiBi bias.
        sinks: ``[H]`` float32; a score that stands in each head's softmax beside those of the keys, with no
            value (gpt-oss). Neither scale, cap nor bias touches it.
        k_scale: keys are stored as ``k / k_scale``; None is 1. int8 pages need one.
        v_scale: the same for values.
        rotary: cosines and sines, both ``[T, D / 2]`` in any float dtype: features ``i`` and ``i + D / 2`` of
            each query and new key are turned by angle ``i`` of their token before anything else is done
            with them. Only for implementations that say they rotate; callers rotate for the others.
        implementation: a name in :data:`IMPLEMENTATIONS`.

    Returns:
        ``(out, kv_pages)``: ``out [T, H, D]`` in the dtype of ``q``, softmax and sums in float32. Padding
        tokens give finite numbers. Nothing outside the visible context is read into the result: pages
        nobody uses, or that have left the window, may hold NaN.

    Raises:
        ConfigError: ``implementation`` is unknown, or cannot do this combination of heads, page and dtypes.
        ValueError: shapes or the pages' dtype do not fit together; the text names them.
    """
    _check_shapes(q, k, v, metadata)
    _check_options(q, kv_pages, alibi_slopes, sliding_window, soft_cap, sinks, k_scale, v_scale)
    attend = get_implementation(implementation).attend
    if rotary is not None:
        _check_rotary(q, rotary, implementation)
        attend = partial(attend, rotary=rotary)
    return attend(
        q,
        k,
        v,
        kv_pages,
        metadata,
        scale=scale,
        alibi_slopes=alibi_slopes,
        sliding_window=sliding_window,
        soft_cap=soft_cap,
        sinks=sinks,
        k_scale=k_scale,
        v_scale=v_scale,
    )


def _check_shapes(q: jax.Array, k: jax.Array, v: jax.Array, metadata: AttentionMetadata) -> None:
    """Static checks of the batch, at trace time. Raises ValueError."""
    num_tokens, num_heads, head_dim = q.shape
    num_seqs = metadata.kv_lens.shape[0]
    if k.shape != v.shape or k.shape[0] != num_tokens or k.shape[2] != head_dim:
        raise ValueError(f"k {k.shape} and v {v.shape} do not fit q {q.shape}")
    if num_heads % k.shape[1]:
        raise ValueError(f"{num_heads} query heads are no multiple of {k.shape[1]} KV heads")
    if metadata.page_table.shape[0] != num_seqs or metadata.cu_q_lens.shape != (num_seqs + 1,):
        raise ValueError(
            f"page_table {metadata.page_table.shape}, kv_lens {metadata.kv_lens.shape} and "
            f"cu_q_lens {metadata.cu_q_lens.shape} disagree on the number of sequences"
        )
    if metadata.decode_only and num_tokens != num_seqs:
        raise ValueError(f"decode_only wants a token a row, got {num_tokens} tokens, {num_seqs} rows")


def _check_rotary(q: jax.Array, rotary: tuple[jax.Array, jax.Array], implementation: str) -> None:
    """Static checks of the angles, at trace time. Raises ValueError."""
    if not get_implementation(implementation).rotates:
        raise ValueError(
            f"the implementation {implementation!r} takes queries and keys that are rotated already"
        )
    for name, angles in zip(("cos", "sin"), rotary, strict=True):
        if q.shape[2] % 2 or angles.shape != (q.shape[0], q.shape[2] // 2):
            raise ValueError(f"{name} {angles.shape} does not fit q {q.shape}")


def _check_options(
    q: jax.Array,
    kv_pages: jax.Array,
    alibi_slopes: jax.Array | None,
    sliding_window: int | None,
    soft_cap: float | None,
    sinks: jax.Array | None,
    k_scale: float | None,
    v_scale: float | None,
) -> None:
    """Static checks of what a model adds, at trace time. Raises ValueError."""
    num_heads = q.shape[1]
    for name, a_head in (("alibi_slopes", alibi_slopes), ("sinks", sinks)):
        if a_head is not None and a_head.shape != (num_heads,):
            raise ValueError(f"{name} {a_head.shape} do not fit {num_heads} query heads")
    if sliding_window is not None and sliding_window < 1:
        raise ValueError(f"sliding_window must be at least 1, got {sliding_window}")
    for name, positive in (("soft_cap", soft_cap), ("k_scale", k_scale), ("v_scale", v_scale)):
        if positive is not None and not positive > 0:
            raise ValueError(f"{name} must be above 0, got {positive}")
    if kv_pages.dtype == jnp.int8 and (k_scale is None or v_scale is None):
        raise ValueError("int8 pages need a k_scale and a v_scale: without them most keys round to 0")
