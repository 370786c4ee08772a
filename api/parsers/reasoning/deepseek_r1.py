"""DeepSeek-R1 and its distillations: ``reasoning</think>answer``.

Their templates open <think> in the prompt, or the model writes it first; older templates do neither, and the
model reasons all the same. Source: the model cards and chat templates of deepseek-ai/DeepSeek-R1 and
DeepSeek-R1-Distill-Qwen-7B; DeepSeek-V3.1 puts </think> into the prompt where it shall not reason.
"""

from __future__ import annotations

from api.parsers.reasoning.thinking import Marks

MARKS = Marks("<think>", "</think>", assumed=True)
