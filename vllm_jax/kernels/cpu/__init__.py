"""Native kernels for CPUs, behind XLA's foreign function interface. Optional: see :mod:`.library`."""
