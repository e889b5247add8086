"""A tokenizer on trial: what bytelm says of it, compared with what the tokenizer itself does.

This chapter decides whether bytelm and a tokenizer disagree, and shows where. It takes a tokenizer and texts that are
hard to tokenize. It encodes thousands of continuations of every prefix (continuations.py) and reads the boundary nodes
off the encodings (judge.py). It gives a report with a witness for every disagreement (trial.py). What is right is never
taken from bytelm: only the tokenizer's own encoder and decoder say (definition.py).
"""
