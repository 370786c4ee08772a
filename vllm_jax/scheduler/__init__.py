"""Continuous batching in plain Python: who computes how many tokens in which blocks. Never imports jax."""
