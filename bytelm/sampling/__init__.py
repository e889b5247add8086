"""Drawing bytes exactly, with few model calls; and `ByteModel`, what every byte model offers.

This chapter decides when enough is known to draw a byte, and when a completion ends. It takes a place in a text (a
`Frontier`, or an ensemble's place), a `SamplingParams` and random numbers. It gives completions: whole, in batches, and
piece by piece. A new kind of byte model implements the steps of steps.py and gets every other method from `ByteModel`.
A byte depends on its distribution and on the item's own random numbers. It never depends on what happened to be
evaluated, or on what else is in the batch.
"""
