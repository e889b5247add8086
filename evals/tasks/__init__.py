"""Decides how local data files become the offline tasks of lm-evaluation-harness; README.md lists the files.

It takes the folder that BYTELM_TEST_DATA names, compares each file with its sha256, and gives rows with the columns
of lm-eval's own tasks. It never downloads anything.
"""
