"""Stop strings in a text that arrives in pieces. Pure: knows no tokens and no requests."""

from __future__ import annotations

from collections.abc import Iterable


class StopStringMatcher:
    """Finds the first stop string to be completed, whatever pieces the text comes in.

    "First" is the one that ends first; of several that end together, the one that begins first (the
    longest). That is what a stream can decide without looking ahead, and it does not depend on the split.
    Text is held back only while it may be the beginning of a stop string: the longest suffix that is a
    proper prefix of one. Each character costs amortised O(number of stop strings) (Knuth, Morris and Pratt,
    "Fast Pattern Matching in Strings", 1977), however long and repetitive the strings are.
    """

    def __init__(self, stop: Iterable[str], *, include_stop_str_in_output: bool = False):
        """Makes a matcher.

        Raises:
            ValueError: a stop string is empty.
        """
        self._stops = list(dict.fromkeys(stop))
        if "" in self._stops:
            raise ValueError("a stop string must not be empty")
        self._include = include_stop_str_in_output
        self._fallbacks = [_fallbacks(stop) for stop in self._stops]
        self._matched = [0] * len(self._stops)  # characters of each stop string the text ends in
        self._held = ""
        self.stop: str | None = None
        """The stop string that was found, or None so far."""

    def push(self, text: str) -> tuple[str, str | None]:
        """Takes the next piece; returns the text that is safe to emit and the stop string it completed.

        Once a stop string is found, the rest of that piece and all later ones are dropped.
        """
        if self.stop is not None:
            return "", self.stop
        if not self._stops:
            return text, None
        buffer = self._held + text
        for position in range(len(self._held), len(buffer)):
            found = self._advance(buffer[position])
            if found is not None:
                self.stop = found
                self._held = ""
                end = position + 1
                return buffer[: end if self._include else end - len(found)], found
        safe = len(buffer) - max(self._matched)
        self._held = buffer[safe:]
        return buffer[:safe], None

    def flush(self) -> str:
        """Returns what was held back: the text has ended, so it is no stop string."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._stops)
        return held

    def _advance(self, character: str) -> str | None:
        """Takes one character; returns the longest stop string it completes, or None."""
        found = None
        for k, stop in enumerate(self._stops):
            matched = self._matched[k]
            while matched and stop[matched] != character:
                matched = self._fallbacks[k][matched - 1]
            if stop[matched] == character:
                matched += 1
            self._matched[k] = matched
            if matched == len(stop) and (found is None or len(stop) > len(found)):
                found = stop
        return found


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of ``stop``: the length of its longest proper suffix that is a prefix of ``stop``."""
    table = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = table[length - 1]
        if stop[i] == stop[length]:
            length += 1
        table[i] = length
    return table
