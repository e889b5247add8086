"""Engines: what runs a model, each behind the one interface of `bytelm.token_lm.TokenLM`.

Nothing is imported here, so that choosing an engine is what brings in its libraries.
"""
