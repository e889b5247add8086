"""Surprisal by words beside a program that sums tokens: what both say, and why they differ where they do.

It takes sentences, a model, and the numbers that another program gave for the same words. It gives each difference as a
sum of named amounts, each computed from its definition. It draws nothing and decides nothing about scores: those are
bytelm's own.
"""
