"""Evaluations: one package or module for each published number, each run as ``python -m evals.NAME``.

An evaluation measures what the documentation claims about bytelm: exactness, cost, and what exact bytes are worth on
tasks. It takes a model by name and data by path, and gives a result file, tables and a plot. The committed files of
results/ are such results; ``--read`` (of evals.fim: ``--compare``) shows them again. The package bytelm never imports
anything from here, and no wheel holds it.
"""
