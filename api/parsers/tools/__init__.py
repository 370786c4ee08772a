"""Formats in which models write calls of tools, one a file.

Each is a generator ``parse(source, names)`` over the answer's text: ``names`` are the tools of the request.
Formats with marks of their own take any name (a client can tell the model that there is no such tool);
formats without marks take only these, since other JSON is an answer like any other.
"""
