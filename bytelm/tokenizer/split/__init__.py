"""Where a pre-tokenizer may cut a text: split patterns as automata over bytes.

This chapter decides whether some text to come can make a pre-tokenizer cut just at the given places. It takes the
patterns of its steps (syntax.py, regex.py) and the vocabulary. It gives the classes of characters that they tell apart,
one automaton for each step (automaton.py), and all of them together as one that reads tokens (vocab_walk.py). It never
knows merges: what it accepts may still be a sequence that merging does not make.
"""
