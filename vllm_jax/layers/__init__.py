"""The building blocks that models share: linear, norm, embedding, rotary, ALiBi, attention."""
