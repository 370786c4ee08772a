"""Measuring servers and engines: loads, a client, statistics, reports. Knows no JAX."""
