"""Continuous batching in plain Python: which sequence computes how many tokens in which blocks. Never imports jax."""
