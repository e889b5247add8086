"""The tokenizer of a GGUF file, rebuilt as a tokenizer.json that splits every text as llama.cpp does.

This chapter decides what the lists of a GGUF file mean. It takes the file's key-value pairs (metadata.py). It gives the
contents of a tokenizer.json (tokenizer.py), with the steps that llama.cpp has for the name of a pre-tokenizer
(pre_tokenizers.py), or an error where the file names a kind of tokenizer that is not known. It never reads a tensor,
and never asks llama.cpp.
"""
