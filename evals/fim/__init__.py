"""Measures how well methods fill in at a cursor: exact bytes, plain tokens, and two kinds of token healing.

It takes a published benchmark or your own source files, draws a completion of every problem by each method from the
same model, and gives how right the completions are and what they cost. It never runs a completion outside the
sandbox, and only with ``--execute``.
"""
