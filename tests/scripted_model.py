"""A checkpoint that says given texts: real weights, found by hand, behind the real server.

Its last prompt token decides the answer: behind the token ``@name@`` the script of that name follows, token
by token, and then EOS. Attention and MLP add nothing; an embedding points at the token that follows. For
that no token may occur twice: the scripts are cut into pieces that are all different, and these are tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path

import tiny_models
import torch
import transformers

HIDDEN = 192

SPECIAL = ["<tool_call>"]
"""A mark of the format that this vocabulary has as a special token, as some do."""

TEMPLATE = """
{%- if tools %}<|im_start|>system
{{ messages[0].content + '\\n' if messages[0].role == 'system' else '' -}}
Tools: <tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
Answer with <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif not (tools and loop.first and message.role == 'system') %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined %}{{ ' <think>' if enable_thinking else ' <think></think>' }}
{%- else %}{{ '@' + ('done' if messages[-1].role == 'tool' else script or 'plain') + '@' }}{% endif %}
{%- endif %}"""
"""The hermes format, in brief. ``script`` comes with chat_template_kwargs; after a result "done" is said.

With ``enable_thinking`` the script "<think>" or "</think>" follows.
"""


def save(directory: Path, scripts: dict[str, str]) -> Path:
    """Writes a checkpoint that says ``scripts``; returns ``directory``. Their text is ASCII."""
    chains: dict[str, list[str]] = {}
    used: set[str] = set()
    for name, text in scripts.items():
        assert text.isascii() and "@" not in text
        chains[name] = [name if "<" in name else f"@{name}@", *_pieces(text, used)]
    tokenizer = copy.deepcopy(tiny_models.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    ordinary = [piece for chain in chains.values() for piece in chain if piece not in SPECIAL]
    tokenizer.add_tokens([transformers.AddedToken(p, normalized=False, special=False) for p in ordinary])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    _model(tokenizer, chains).save_pretrained(directory)
    return directory


def _pieces(text: str, used: set[str]) -> list[str]:
    """Cuts ``text`` into pieces of three characters or more that are not ``used``, which grows."""
    pieces: list[str] = []
    while text:
        marks = [mark for mark in SPECIAL if text.startswith(mark) and mark not in used]
        length = len(marks[0]) if marks else 3
        while text[:length] in used and length < len(text):
            length += 1
        piece, text = text[:length], text[length:]
        while piece in used:  # the text ends as another does
            piece = pieces.pop() + piece
        pieces.append(piece)
        used.add(piece)
    return pieces


def _model(
    tokenizer: transformers.PreTrainedTokenizerFast, chains: dict[str, list[str]]
) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(len(tokenizer), HIDDEN), dim=-1)
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(directions)
        model.lm_head.weight.zero_()
        for chain in chains.values():
            ids = [tokenizer.convert_tokens_to_ids(piece) for piece in chain]
            for token, following in zip(ids, [*ids[1:], tokenizer.eos_token_id], strict=True):
                model.lm_head.weight[following] += 8 * directions[token]
    return model
