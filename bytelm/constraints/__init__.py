r"""Constraints: what may be written, as a regular expression, a JSON schema, a grammar or a list of texts.

This chapter decides which of the 257 symbols may come next, and which bytes are the only way on. It takes a description
of texts and the bytes written so far. It gives masks over the 256 bytes and the end of text. It knows no model, no
token and no probability: sampling/constrained.py draws under it.

    >>> from bytelm import constraints
    >>> state = constraints.choice(["yes", "yesterday", "no"]).state()
    >>> state.forced(), [chr(symbol) for symbol in state.allowed().nonzero()[0]]
    (b'', ['n', 'y'])
    >>> state.advance(b"y")
    >>> state.forced()
    b'es'

Read on in ``constraint`` (the two interfaces, for an engine of your own), ``choice`` (a list of texts, which needs no
other package), ``grammar`` (all others, by llguidance).
"""

from bytelm.constraints.choice import Choice, choice
from bytelm.constraints.constraint import Constraint, ConstraintState, Of, constraint_of
from bytelm.constraints.grammar import Grammar, gbnf, json_object, json_schema, lark, regex

__all__ = [
    "Choice",
    "Constraint",
    "ConstraintState",
    "Grammar",
    "Of",
    "choice",
    "constraint_of",
    "gbnf",
    "json_object",
    "json_schema",
    "lark",
    "regex",
]
