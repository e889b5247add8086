"""Decides how evaluations read their options, keep results, show progress, and print tables and plots.

It takes numbers and records, and gives files that survive a kill, means with intervals, tables and drawings. It never
imports an evaluation, and never loads a model.
"""
