"""Formats in which models write their reasoning, one a file: generators over the answer's text."""
