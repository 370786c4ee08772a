"""The subcommands of ``vllm-jax`` and what they share."""
