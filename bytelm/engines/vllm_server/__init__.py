"""A model on a vLLM server that runs already: token ids in, whole rows and drawn tokens out, over HTTP.

This chapter decides what a request holds and which answers are believed. It takes a server's address and token ids. It
gives a `TokenLM` that also draws tokens (engine.py). It never starts a server, never imports vLLM, and never accepts a
part of a row for the whole.
"""
