"""vllm-jax: a JAX-first inference server that any OpenAI client can use unchanged."""

from typing import TYPE_CHECKING, Any

from vllm_jax._version import __version__
from vllm_jax.outputs import CompletionOutput, Logprob, RequestOutput
from vllm_jax.sampling_params import SamplingParams
from vllm_jax.structured_output_params import StructuredOutput, StructuredOutputsParams

if TYPE_CHECKING:
    from vllm_jax.engine.beam_search import BeamSearchParams
    from vllm_jax.llm import LLM, TextPrompt, TokensPrompt

__all__ = [
    "LLM",
    "BeamSearchParams",
    "CompletionOutput",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutput",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Imports the offline engine, and JAX with it, only where it is asked for."""
    if name in ("LLM", "TextPrompt", "TokensPrompt"):
        from vllm_jax import llm

        return getattr(llm, name)
    if name == "BeamSearchParams":
        from vllm_jax.engine import beam_search

        return beam_search.BeamSearchParams
    raise AttributeError(f"module 'vllm_jax' has no attribute {name!r}")
