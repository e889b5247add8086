"""Random tokenizers against the definition: ``python -m evals.fuzz``.

It decides whether bytelm says of a tokenizer what the tokenizer itself says, for tokenizers that nobody has written yet.
It takes a seed, gives counts by family and every disagreement as lines to paste into a test, and uses nothing of
bytelm but its public face: nothing of bytelm's own verification is asked, so both are never wrong together.
"""
