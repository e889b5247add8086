"""Measures what ensembles and bytes are worth on tasks of lm-evaluation-harness.

It takes members and tasks, runs every member by bytes and by tokens and every ensemble on the same items, and gives
figures with intervals and comparisons in pairs. It never changes a task: prompts and metrics are lm-eval's.
"""
