"""Paged attention for NVIDIA GPUs, in Pallas kernels that Triton compiles."""
