"""GGUF files on llama.cpp: this chapter decides which sequence ids of llama.cpp's cache hold which tokens.

It takes a GGUF file and token sequences. It gives the rows of the quantised model itself, the same whatever was asked
before and beside. It never prints, never sends llama.cpp what would end the process, and never uses a tokenizer of its
own making that splits a text in another way than llama.cpp does.
"""
