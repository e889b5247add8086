"""From a model's rows to byte probabilities: what is asked of an engine, and what its answers are worth in bytes.

This chapter decides which nodes of a cover are evaluated, and what is certain while the others are not. It takes covers
and a `TokenLM`. It gives masses of bytes with bounds (frontier.py), rows and scores. All of that is written as *steps*,
generators that ask for rows. The scheduler runs many of them together and gathers what they ask into batched calls. No
step calls a model, and nothing here draws a byte or passes an approximate number off as an exact one.
"""
