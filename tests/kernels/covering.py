"""Few rows in which every pair of values of any two factors meets: what a full product would find, nearly."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

TRIES, CANDIDATES = 8, 60

Row = tuple[Any, ...]


def covering(
    factors: Mapping[str, Sequence[Any]],
    *,
    cost: Callable[[Row], float] = lambda row: 1.0,
    focus: str | None = None,
) -> list[Row]:
    """Rows, a value for each factor, that hold every pair there is.

    Cheap ones are preferred. With a ``focus`` only pairs with a value of that factor count. The same
    arguments always give the same rows.
    """
    place = None if focus is None else list(factors).index(focus)
    wanted = {
        pair
        for row in product(*factors.values())
        for pair in pairs(row)
        if place is None or place in (pair[0][0], pair[1][0])
    }
    found = []
    for seed in range(TRIES):
        chance, missing, rows = random.Random(seed), set(wanted), []
        while missing:
            drawn = [tuple(chance.choice(values) for values in factors.values()) for _ in range(CANDIDATES)]
            rows.append(max(drawn, key=lambda row: len(missing & pairs(row)) / cost(row)))
            missing -= pairs(rows[-1])
        found.append(rows)
    return min(found, key=lambda rows: sum(map(cost, rows)))


def pairs(row: Row) -> set[tuple[tuple[int, Any], tuple[int, Any]]]:
    """Every two places of a row with their values."""
    return set(combinations(enumerate(row), 2))
