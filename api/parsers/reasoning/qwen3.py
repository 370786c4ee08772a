"""Qwen 3: ``<think>reasoning</think>answer``.

The hybrid models write <think> themselves, and ``enable_thinking=false`` puts an empty pair into the prompt;
the template of the thinking models opens <think> in the prompt. Without any mark the answer has no reasoning,
so that this is right for all models whose templates know these marks. Source: the chat templates of
Qwen/Qwen3-8B and Qwen/Qwen3-4B-Thinking-2507.
"""

from __future__ import annotations

from api.parsers.reasoning.thinking import Marks

MARKS = Marks("<think>", "</think>")
