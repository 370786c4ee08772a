"""How the bundled English-to-Italian demo checkpoint is made: grammar, data, training, evaluation."""
