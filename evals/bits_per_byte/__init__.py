"""Measures how many bits per byte a text costs under models and ensembles with different tokenizers.

It takes text files and model names, and gives the exact log-probability of every document by bytes and by tokens,
with intervals over documents. It never trains, and never counts the end of text.
"""
