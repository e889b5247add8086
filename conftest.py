"""Run every Python example of README.md, docs/ and the docstrings, with Sybil.

A fenced ``python`` block runs as written; one that holds ``>>>`` lines is a doctest. The blocks of a page share one
namespace and run in order. A docstring example runs in the namespace of its module, as with the standard library's
doctest. Examples that need a real model say so by asking for one: nothing here loads or skips anything.
"""

from __future__ import annotations

import sys
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path

from sybil import Sybil
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# At the end of the path: evals/ is found here, and bytelm where it is installed.
sys.path.append(str(Path(__file__).parent))
pytest_plugins = ["tests.support.shapes"]  # before anything of bytelm is there

DOCTEST_OPTIONS = ELLIPSIS | NORMALIZE_WHITESPACE

pages = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=DOCTEST_OPTIONS), SkipParser()],
    patterns=["*.md"],
)
docstrings = Sybil(
    parsers=[DocTestParser(DOCTEST_OPTIONS)],
    patterns=["*.py"],
    excludes=["tests/*", "evals/*", "scripts/*", "conftest.py"],
)
pytest_collect_file = (pages + docstrings).pytest()
