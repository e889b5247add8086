"""The examples of docstrings as blocks of code on the site: to Markdown, ``>>>`` alone is a quotation in a quotation.

mkdocstrings calls this while it reads the package (mkdocs.yml, extensions).
"""

from __future__ import annotations

import re
from typing import Any, Final

from griffe import Extension

_EXAMPLE: Final = re.compile(r"^>>> .*(?:\n(?=.*\S).*)*", re.MULTILINE)
_FLAGS: Final = re.compile(r"  # doctest: .*$", re.MULTILINE)


class DocstringExamples(Extension):  # type: ignore[misc] # griffe is in no environment of the type checker
    """Put the doctests of every docstring into fences, without the flags that only the tests read."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(
                lambda example: f"```pycon\n{_FLAGS.sub('', example[0])}\n```", obj.docstring.value
            )
