"""The HTTP surface: FastAPI app, routes, protocol models, SSE and the command line. Knows no JAX."""
