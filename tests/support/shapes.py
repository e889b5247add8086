"""What is checked while tests run: the arguments and results of what takes or returns arrays, their shapes above all.

jaxtyping's import hook would have every function of bytelm checked, for twenty microseconds a call. Types that are not of
arrays mypy has proved before anything runs. So what names no array is left as it is: most of what is called millions of
times.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import partial
from typing import Any

import jaxtyping

_checked = jaxtyping.jaxtyped


def names_arrays(annotated: Any) -> bool:
    """Whether the annotations of a function or a class name one of jaxtyping's types, or an alias of such."""
    names = vars(sys.modules[annotated.__module__])
    said = [str(annotation) for annotation in inspect.get_annotations(annotated).values()]
    for text in said:
        named = [names.get(word) for word in re.findall(r"\w+", text)]
        if any("jaxtyping" in f"{getattr(one, '__module__', '')} {one!r}" for one in named):
            return True
        said += [one for one in named if isinstance(one, str) and one not in said]  # an alias in quotes
    return False


def jaxtyped(annotated: Any = None, *, typechecker: Any) -> Any:
    """In place of jaxtyping's decorator, which the hook puts on all functions and classes."""
    if annotated is None:
        return partial(jaxtyped, typechecker=typechecker)
    plain = inspect.isfunction(annotated) or inspect.isclass(annotated)
    return annotated if plain and not names_arrays(annotated) else _checked(annotated, typechecker=typechecker)


jaxtyping.jaxtyped = jaxtyped  # type: ignore[assignment] # what the hook writes above each function looks it up here
