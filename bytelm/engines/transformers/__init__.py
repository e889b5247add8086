"""Any causal language model of transformers: this chapter decides which tokens are fed, and which cached keys they see.

It takes a model that is loaded, or a place to load one from, and token sequences. It gives their rows, each within
rounding of a plain forward pass over that sequence alone, and feeds a token that several sequences share once. It
never changes the model (its weights, device, dtype, attention), never uses the model's own cache, and never takes a
shortcut that it has not compared with a plain pass.
"""
