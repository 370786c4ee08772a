"""Random texts of a wanted length in tokens.

Knows a tokenizer, or without one that a common English word is about one token. Texts of one
:class:`TextMaker` are all different, so that a prefix cache finds nothing in them by chance.
"""

from __future__ import annotations

import numpy as np

from vllm_jax.tokenizer.base import Tokenizer

_CANDIDATES = 4096
"""Token ids that are looked at for words."""
_TRIES = 20
_PLAIN_WORDS = (
    "the of and to in is that it for was on are as with they be at one have this from or had by hot word "
    "but what some we can out other were all there when up use your how said an each she which do their "
    "time if will way about many then them write would like so these her long make thing see him two has "
    "look more day could go come did number sound no most people my over know water than call first who "
    "may down side "
)
"""Words that nearly every vocabulary has as one token; for servers whose tokenizer is not at hand."""


class TextMaker:
    """Makes texts of exactly (with a tokenizer) or about (without) the wanted number of tokens.

    Args:
        tokenizer: the served model's, or None.
        add_special_tokens: whether the server puts BOS or the like before the text, so that they count.
    """

    def __init__(self, tokenizer: Tokenizer | None, *, add_special_tokens: bool = True):
        self._tokenizer = tokenizer
        self._add_special_tokens = add_special_tokens
        self._words = _PLAIN_WORDS.split() if tokenizer is None else _single_token_words(tokenizer)

    @property
    def exact(self) -> bool:
        """Whether lengths are counted, not estimated."""
        return self._tokenizer is not None

    def count(self, text: str) -> int | None:
        """Tokens of ``text`` as a prompt, or None without a tokenizer."""
        if self._tokenizer is None:
            return None
        return len(self._tokenizer.encode(text, add_special_tokens=self._add_special_tokens))

    def make(self, rng: np.random.Generator, tokens: int, prefix: str = "") -> str:
        """``prefix`` and then as many random words as make the whole ``tokens`` tokens long.

        Where the tokenizer allows no text of exactly that length, the nearest that was found.
        """
        if self._tokenizer is None:
            known = len(prefix.split())
            return prefix + self._some(rng, max(0, tokens - known))
        best, distance = prefix, float("inf")
        for _ in range(_TRIES):
            text = prefix
            for _ in range(_TRIES):
                missing = tokens - (self.count(text) or 0)
                if abs(missing) < distance:
                    best, distance = text, abs(missing)
                if missing == 0:
                    return text
                if missing > 0:
                    text += self._some(rng, missing)
                else:
                    shorter = text.rsplit(" ", -missing)[0]
                    if len(shorter) < len(prefix):
                        break
                    text = shorter
        return best

    def _some(self, rng: np.random.Generator, count: int) -> str:
        return "".join(" " + self._words[i] for i in rng.integers(len(self._words), size=count))


def _single_token_words(tokenizer: Tokenizer) -> list[str]:
    """Words that are one token each where another word is before them."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(tokenizer.max_token_id + 1)[:_CANDIDATES]
    found = []
    for token_id in ids.tolist():
        if token_id in tokenizer.special_token_ids:
            continue
        word = tokenizer.token_str(token_id)
        if len(word) > 2 and word[0] == " " and word[1:].isascii() and word[1:].isalpha():
            found.append(word[1:])
    return found or _PLAIN_WORDS.split()
