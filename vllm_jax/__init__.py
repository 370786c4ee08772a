"""vllm-jax: a JAX-first inference server that any OpenAI client can use unchanged."""

from vllm_jax._version import __version__
from vllm_jax.outputs import CompletionOutput, Logprob, RequestOutput
from vllm_jax.sampling_params import SamplingParams

__all__ = ["CompletionOutput", "Logprob", "RequestOutput", "SamplingParams", "__version__"]
