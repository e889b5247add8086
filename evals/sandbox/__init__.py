"""Decides under which walls a program that a model wrote may run.

It takes the source of Python programs and limits, runs each in its own cell, and gives how each ended. It never runs
a program that it cannot contain: on such a system the outcome is "not run".
"""
