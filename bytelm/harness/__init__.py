"""lm-evaluation-harness on a byte model, an ensemble, or the token-level baseline.

This chapter decides what each kind of request means for bytes, and how the token-level baseline answers the same. It
takes lm-eval's requests and arguments. It gives log-likelihoods, greedy flags and texts, in the order of the requests.
byte_requests.py and token_requests.py hold the answers; only model.py imports lm-eval. Nothing here defines a task or
runs code that a model wrote.
"""
