"""The tests; and evals/, which is no part of the wheel, made importable from the checkout that the tests lie in.

The checkout itself stays off ``sys.path``: tox runs these tests on the installed package.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("evals") is None:
    _folder = Path(__file__).parent.parent / "evals"
    _spec = importlib.util.spec_from_file_location(
        "evals", _folder / "__init__.py", submodule_search_locations=[str(_folder)]
    )
    if _spec is not None and _spec.loader is not None:
        sys.modules["evals"] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules["evals"])
