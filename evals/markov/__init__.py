"""Measures how large tokenization bias is where the true distribution is known: a Markov chain.

It takes a chain's size and a seed, builds the chain, a tokenizer and two models over tokens, and gives the error of
the next-symbol estimates by tokens and by bytes. It never reads data: everything is drawn.
"""
