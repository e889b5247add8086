"""Measures what writing under a constraint costs, whether it is always valid, and how far its law is from the model's.

It takes a model and a stated set of schemas, regular expressions, grammars and lists of texts. It gives completions
under each with their cost beside unconstrained ones of the same size, and the verdict of validators that share no code
with the constraints. It never counts an unfinished text as valid or as invalid.
"""
