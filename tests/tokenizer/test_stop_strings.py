"""Stop strings in pieces against a search of the whole text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllm_jax.tokenizer.stop_strings import StopStringMatcher


def whole_search(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The text that is shown and the stop string that ends first (of equals, the longest)."""
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end if include else end - len(stop)], stop


def split(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


SMALL = st.text(alphabet="ab\n🙂", max_size=24)


@settings(max_examples=600, deadline=None)
@given(
    text=SMALL,
    stops=st.lists(st.text(alphabet="ab\n🙂", min_size=1, max_size=6), max_size=4),
    cuts=st.lists(st.integers(0, 24), max_size=10),
    include=st.booleans(),
)
@example(text="abcd", stops=["abcd", "bc"], cuts=[1, 2, 3], include=False)
@example(text="aabaabaaa", stops=["aabaaa"], cuts=[5], include=False)
def test_any_split(text, stops, cuts, include):
    matcher = StopStringMatcher(stops, include_stop_str_in_output=include)
    shown, found, seen = "", None, ""
    for piece in split(text, cuts):
        safe, stop = matcher.push(piece)
        shown += safe
        if found is not None:
            assert (safe, stop) == ("", found)
        seen += piece
        found = stop
        # Nothing more is held back than what may still become a stop string.
        if found is None:
            held = max((k for s in stops for k in range(len(s)) if seen.endswith(s[:k])), default=0)
            assert shown == seen[: len(seen) - held]
    shown += matcher.flush()
    assert (shown, found) == whole_search(text, stops, include)
    assert matcher.stop == found
    assert matcher.flush() == ""


def test_without_stop_strings_text_passes():
    matcher = StopStringMatcher([])
    assert matcher.push("anything") == ("anything", None)
    assert matcher.flush() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopStringMatcher(["a", ""])
