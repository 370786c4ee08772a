"""Paged attention: one operation, one reference, one implementation a backend, one dispatch point."""
