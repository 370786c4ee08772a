"""A command was called wrongly."""

from __future__ import annotations

from vllm_jax.errors import ConfigError


class UsageError(ConfigError):
    """Wrong arguments: the exit code is 2, not 1."""
