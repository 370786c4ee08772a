"""Checkpoint -> arrays, with strict accounting of every tensor name."""
