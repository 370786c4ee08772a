"""One file a model family: its config, its Flax NNX modules and its WEIGHTS table."""
