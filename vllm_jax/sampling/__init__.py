"""Logits -> tokens: logits processors and the sampler, as pure functions."""
