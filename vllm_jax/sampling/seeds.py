"""Seeds: from a request's ``seed`` to the 64-bit number each of its sequences samples with.

Pure integer arithmetic on the host. Knows no JAX: what a seed means on the device is
:func:`vllm_jax.sampling.sampler.random`'s affair.
"""

from __future__ import annotations

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def sequence_seed(seed: int, index: int) -> int:
    """The 64-bit unsigned seed of sequence ``index`` (0-based) of a request.

    Sequence 0 has the request's own seed, so that it gives the tokens that ``n=1`` gives; the others are
    hashed from the pair, so that they differ from it and from each other.

    Args:
        seed: Any integer in the int64 or uint64 range: the request's, or one from :func:`fresh_seed`.
        index: Which of the ``n`` sequences.
    """
    return seed & _MASK if index == 0 else _mix(_mix(seed & _MASK) ^ index)


def fresh_seed(engine_seed: int, request_number: int) -> int:
    """A 64-bit unsigned seed for a request that brings none.

    Args:
        engine_seed: The engine's ``--seed``: the same one makes the same run.
        request_number: Counts requests, so that equal requests get different answers.
    """
    return _mix(_mix((engine_seed + _GOLDEN) & _MASK) + request_number)


def seed_words(seed: int) -> tuple[int, int]:
    """A 64-bit seed as the two 32-bit words (high, low) of a Threefry key."""
    return (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF


def _mix(x: int) -> int:
    """SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64-bit words."""
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
