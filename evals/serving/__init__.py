"""Measures `bytelm serve`: whether it is right under load, how soon it answers, and what bad requests do to it.

Each command starts a server in a process of its own (server.py) and speaks HTTP with it: load.py and throughput.py with
many clients at once, latency.py with one that types, fuzz.py with hostile ones. The right answers come from the library
in the evaluation's own process. It takes the name of a model, and gives counts, times and every fault that it saw. It
never looks into the server: what is told of it comes from its answers, its log and its process.
"""
