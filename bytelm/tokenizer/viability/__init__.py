"""Which token sequences a tokenizer can emit: cuts, merges, added tokens and normal forms put together.

This chapter decides whether a token may follow a sequence. It takes what the others say of one boundary: split/ of the
cuts, bpe.py of the merges, and the rest of the family's rules. It gives a `Boundary` for a longer sequence, or a mask
of the vocabulary (viability.py). Where that depends on what follows, it looks for a text (text_futures.py) or for
tokens (token_futures.py) that make it right. It never guesses: where it cannot decide, the tokenizer was refused
before.
"""
