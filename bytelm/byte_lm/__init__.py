"""`ByteLM`: one tokenized language model as a language model over bytes.

This chapter decides how the parts of one model go together: its tokenizer, its engine, its caches, its ends of text. It
takes a model by name, a loaded transformers model, or any `TokenLM`. It gives the steps of sampling/steps.py for that
model (model.py), and a digest that tells one model from another (fingerprint.py). It holds no mathematics, and it never
changes the model that it is given.
"""
