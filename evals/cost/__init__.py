"""Measures what exact bytes cost beside plain token generation: model calls, tokens, time, memory.

Each module takes a model's name and a number of bytes, runs bytelm and the engine's own generation on the same
prompts, and gives their ratios: on transformers (__main__.py, growth.py, ensembles.py), llama.cpp and vLLM. lazy.py
checks that lazy evaluation changes no byte and no distribution. The measurements never compare times between runs.
"""
