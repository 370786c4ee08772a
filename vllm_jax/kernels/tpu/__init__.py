"""Ragged paged attention for TPU, written in Pallas."""
