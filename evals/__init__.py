"""Evaluations: one module per published number, each run as ``python -m evals.NAME``."""
