"""The model card: plain words, with the figures of the evaluation put in.

Knows the text. Does not measure: :mod:`examples.demo_model.evaluate` does, and prints what the card shows.
"""

from __future__ import annotations

import os
from pathlib import Path

from examples.demo_model import lexicon as lx
from examples.demo_model.evaluate import Tally, translations
from examples.demo_model.phrases import FIXED
from examples.demo_model.untranslatable import FALLBACK

_MEASURES = {
    "sentences": "held-out sentences (each English sentence's hash decides; none is in the training data)",
    "pairs": "held-out word pairs (pairs such as verb and object that training never brings together)",
    "untranslatable": "untranslatable inputs: the fallback sentence, word for word",
    "other languages": "instructions to translate into a language other than Italian: the fallback sentence",
    "single words": "the words of the lexicon, each alone (training shows them)",
    "third turns": "the third turn of a chat",
    "bare prompts": "bare prompts without the chat template",
    "seed conversations": "the conversations of the LangChain example",
}

_CARD = """\
---
license: apache-2.0
language: [en, it]
library_name: transformers
pipeline_tag: text-generation
tags: [mpt, alibi, translation, demo]
---

# mpt-demo-en-it

The demonstration model that comes with vllm-jax. It is a real MPT (ALiBi, fused QKV, no biases, tied
embeddings) of {parameters} parameters that translates **simple English sentences to Italian**,
so that a newcomer sees every layer of the server work on meaningful text without downloading anything.

## What it is not

- It is **not** MosaicML's MPT-7B, shares no weights with it, and says nothing about its quality.
- It is **not** a general translator or a chat model. It knows {words} English nouns, adjectives and
  verbs, {phrases} fixed phrases and a few dozen sentence forms. Do not use it where a translation matters.
- It has seen no text written by people for other people: everything it learned was drawn from the phrase
  grammar in `examples/demo_model/`.

## What it does

```text
System: You are a helpful assistant that translates English to Italian.
User: Translate the following sentence from English to Italian: I love programming.
Assistant: Io amo programmare
```

The sentence may stand alone, behind an instruction ("Translate to Italian: ...", "How do you say ... in
Italian?"), with or without a system message, also in a later turn. The answer begins with a space (it follows
`Assistant:`), drops the final full stop of a statement, keeps "?" and "!", and ends with the EOS token.
Every English sentence has one answer: the subject pronoun is kept ("Io amo programmare"), "you" is "tu",
"you all" is "voi", and the adjectives of I, you, we and they are masculine.

Anything else (unknown words and names, other languages, other tasks, constructions beyond the grammar, code,
noise) is answered with one fixed sentence:

> {fallback}

It does not always notice that it should: see the figures. A sentence that looks like the grammar's but is not
may get a wrong answer without warning.

## Figures

Measured by `python -m examples.demo_model.evaluate` on this checkpoint, computed in {dtype}. An answer counts
only if the whole greedy answer, EOS included, is exactly the grammar's.

The held-out part was looked at while the grammar, the number of steps and the second stage were chosen, so
the figures lean to the good side. Single words are never held out: they are vocabulary, not combinations.

| measure | exact | of | |
| --- | ---: | ---: | ---: |
{rows}

## How it was made

```console
pip install -e '.[train]'
python -m examples.demo_model.train vllm_jax/demo/mpt-demo-en-it
```

{steps} steps of {batch_tokens} tokens (padding included), freshly drawn from the grammar, the second
stage with more single words; loss on the answers only. Muon for the blocks' matrices and AdamW for the
rest, warm-up and cosine decay to zero, bfloat16 products with float32 parameters, and an exponential average
of the weights.
It took {minutes:.0f} minutes on {cpus} CPU cores{remark}.
The tokenizer (byte-level BPE, {vocab} tokens, no unknown token) is trained by the same script. The draw of
the data is reproducible; the last bits of the weights depend on the CPU and the version of XLA.

Licence: Apache-2.0, as the rest of the project.
"""


def write_card(
    directory: Path,
    tallies: dict[str, Tally],
    *,
    dtype: str,
    parameters: int,
    vocab: int,
    steps: str,
    batch_tokens: int,
    seconds: float,
    remark: str = "",
) -> None:
    """Writes ``README.md`` into the checkpoint's directory."""
    verbs = len(lx.VERBS) + len(lx.MOTION) + len(lx.LIKING)
    rows = [
        f"| {text} | {t.right} | {t.total} | {100 * t.rate:.2f} % |"
        for measure, text in _MEASURES.items()
        if (t := tallies.get(measure)) is not None
    ]
    both = translations(tallies)
    rows.insert(
        0, f"| **all held-out translations** | {both.right} | {both.total} | **{100 * both.rate:.2f} %** |"
    )
    text = _CARD.format(
        parameters=f"{parameters / 1e6:.2f} million",
        words=len(lx.NOUNS) + len(lx.ADJECTIVES) + verbs,
        phrases=len(FIXED),
        fallback=FALLBACK,
        dtype=dtype,
        rows="\n".join(rows),
        steps=steps,
        batch_tokens=batch_tokens,
        minutes=seconds / 60,
        cpus=os.cpu_count(),
        remark=remark,
        vocab=vocab,
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
