"""The byte-level BPE tokenizer: training it, and turning chats into token ids with a loss mask.

Knows the special tokens and the chat template. Does not know the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from examples.demo_model.chats import Chat
from examples.demo_model.untranslatable import FALLBACK

EOS, PAD = "<|endoftext|>", "<|padding|>"
EOS_ID, PAD_ID = 0, 1
WORD_WEIGHT = 100

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set content = (message['content'] or '') | trim -%}
{%- if message['role'] in ('system', 'developer') -%}
{{- 'System: ' + content + '\\n' -}}
{%- elif message['role'] == 'user' -%}
{{- 'User: ' + content + '\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'Assistant: ' + content + eos_token + '\\n' -}}
{%- else -%}
{{- raise_exception('The demo model knows the roles system, user and assistant, not ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'Assistant:' -}}
{%- endif -%}
"""
"""A plain transcript. The answer begins with a space, behind the colon, and ends with the EOS token."""


def segments(chat: Chat) -> list[tuple[str, bool]]:
    """The chat as text pieces; True marks answers (an EOS token follows each of them)."""
    if chat.raw:
        return [piece for user, answer in chat.turns for piece in ((user, False), (f" {answer}", True))]
    pieces, text = [], f"System: {chat.system.strip()}\n" if chat.system else ""
    for user, answer in chat.turns:
        pieces += [(f"{text}User: {user.strip()}\nAssistant:", False), (f" {answer}", True)]
        text = "\n"
    return pieces


def train_tokenizer(chats: Iterable[Chat], words: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains byte-level BPE on the chats' text. Every byte is a token, so there is no unknown token.

    ``words`` are weighted up, so that each becomes one token behind a space: a word in pieces then means a
    word the model does not know.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # What is declined teaches no words: its rare words shall fall apart into pieces.
    texts = (
        text
        for chat in chats
        for user, answer in chat.turns
        if answer != FALLBACK
        for text, _ in segments(Chat(((user, answer),), chat.system, chat.raw))
    )
    weighted = (" " + word for word in sorted(words) for _ in range(WORD_WEIGHT))
    tokenizer.train_from_iterator(itertools.chain(texts, weighted), trainer)
    return tokenizer


@dataclass(frozen=True)
class Encoded:
    """Token ids of a chat; ``answer[i]`` tells whether token ``i`` belongs to an answer (EOS included)."""

    ids: list[int]
    answer: list[bool]


def encode_chat(tokenizer: Tokenizer, chat: Chat) -> Encoded:
    """Encodes a chat as the served prompt is encoded: each prompt as one text, each answer after it."""
    ids: list[int] = []
    answer: list[bool] = []
    for text, is_answer in segments(chat):
        piece = tokenizer.encode(text, add_special_tokens=False).ids
        if is_answer:
            piece = [*piece, EOS_ID]
        ids += piece
        answer += [is_answer] * len(piece)
    return Encoded(ids, answer)
