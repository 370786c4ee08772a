"""The registry of shapes: every program the server can ever run, decided before it is ready.

Knows how a step's token and row counts are rounded up to a compiled shape. Knows nothing of models.

A step is one of two kinds, and each kind has its own ladder of powers of two:

* *decode*: every row has one token, so tokens and rows are the same number: 1, 2, 4 ... max_num_seqs.
* *mixed*: at least one prefill chunk: 16, 32 ... max_num_batched_tokens tokens, and as many rows as there
  can be. Rows cost little beside tokens (attention visits only those in use), so one row count is enough.

The samplers with logits processors take longest to compile for what they do: they climb in steps of eight,
and a step's logits are padded up to them. With 64 rows and 512 tokens this makes 7 + 6 forward programs, 7
greedy samplers and 2 x 3 others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

_SMALLEST_MIXED = 16


@dataclass(frozen=True, order=True, slots=True)
class StepShape:
    """One compiled shape of a step: ``num_tokens`` (T) flat tokens in ``num_rows`` (S) rows."""

    num_tokens: int
    num_rows: int
    decode_only: bool

    def __str__(self) -> str:
        kind = "decode" if self.decode_only else "mixed"
        return f"{kind} T={self.num_tokens} S={self.num_rows}"


def _ladder(first: int, last: int, factor: int) -> list[int]:
    """``first``, ``first * factor``, ... below ``last``, and ``last`` itself."""
    steps = []
    while first < last:
        steps.append(first)
        first *= factor
    return [*steps, last]


@dataclass(frozen=True)
class ShapeRegistry:
    """All step shapes for the given limits (``max_num_seqs <= max_num_batched_tokens``)."""

    max_num_seqs: int
    max_num_batched_tokens: int

    @cached_property
    def decode_rows(self) -> list[int]:
        """Row (and token) counts of decode steps."""
        return _ladder(1, self.max_num_seqs, 2)

    @cached_property
    def mixed_tokens(self) -> list[int]:
        """Token counts of mixed steps."""
        return _ladder(min(_SMALLEST_MIXED, self.max_num_batched_tokens), self.max_num_batched_tokens, 2)

    @cached_property
    def shapes(self) -> list[StepShape]:
        """Every shape, largest first: the largest decides the memory."""
        decode = [StepShape(s, s, True) for s in self.decode_rows]
        return sorted(decode + [self._mixed(t) for t in self.mixed_tokens], reverse=True)

    @cached_property
    def rows(self) -> list[int]:
        """Every row count that a step's logits can have."""
        return sorted({shape.num_rows for shape in self.shapes})

    @cached_property
    def sampler_rows(self) -> list[int]:
        """Row counts of the samplers beyond the greedy one."""
        return _ladder(1, self.max_num_seqs, 8)

    def shape_for(self, num_tokens: int, num_rows: int, *, decode_only: bool) -> StepShape:
        """The smallest shape that holds a step of ``num_rows`` rows and ``num_tokens`` tokens.

        Raises:
            ValueError: the step is beyond the limits, which the scheduler never lets happen.
        """
        if decode_only:
            rows = at_least(self.decode_rows, num_rows)
            return StepShape(rows, rows, True)
        return self._mixed(at_least(self.mixed_tokens, num_tokens))

    def _mixed(self, num_tokens: int) -> StepShape:
        return StepShape(num_tokens, min(num_tokens, self.max_num_seqs), False)


def at_least(ladder: list[int], wanted: int) -> int:
    """The smallest step of a ladder that is not below ``wanted``. Raises ValueError if there is none."""
    for size in ladder:
        if size >= wanted:
            return size
    raise ValueError(f"no compiled shape holds {wanted}; the largest is {ladder[-1]}")
