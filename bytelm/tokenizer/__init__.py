"""What a tokenizer can emit: its ids as bytes, and which token sequences are the beginning of an encoding.

This chapter decides which sequences are viable (viability/), and refuses the tokenizers for which that cannot be
decided exactly (tokenizer_json.py). It takes a tokenizer in memory, or that of a GGUF file (gguf/). It gives a `Vocab`,
the vocabulary in byte order (prefix_index.py), and `Viability`: which tokens may follow, one by one or all at once.
What takes long to work out is kept on disk (disk_cache.py). It never knows a model, a probability, or a tokenizer by
name.
"""
