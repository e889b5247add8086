"""Engines: what runs a model, each behind the one interface `bytelm.token_lm.TokenLM`.

This chapter decides what a row costs and where it comes from: which library runs the model, what is cached, what goes
together in one call. It takes the name of an engine and of a model (choice.py), or a model that is loaded, and then
token sequences. It gives a row of next-token log-probabilities for each, and the counts of what that took. Some
engines also draw tokens. It never knows bytes: it never looks at what a token spells, and never changes a row. Nothing
is imported here, so that choosing an engine is what brings in its libraries.
"""
