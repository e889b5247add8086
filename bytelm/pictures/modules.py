"""The browser's modules as one script: what a document that fetches nothing can hold.

Theory
    A module is code, what it takes from others (``import { a, b } from "./x.js";``) and what it gives (``export`` in
    front of a function or a constant). So it is a function without arguments that returns what it gives, and an import
    is a part of what such a function returned. Modules are put in the order in which they need one another.

Rules
    Each import is on one line and names what it takes. Each export is a named function or constant. Anything else is
    refused: a document is not to be made of code that was not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

IMPORT: Final = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:function\*?|const) (\w+))", re.MULTILINE)
_LEFT: Final = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


def bundled(entry: str, read: Callable[[str], str]) -> str:
    """A module and all that it needs, as the text of one script.

    Args:
        entry: Its name, without ".js".
        read: The text of a module, by its name.

    Raises:
        ValueError: An import or an export of another form, or modules that need each other.

    >>> texts = {"a": 'import { f } from "./b.js";\\nf();', "b": "export const f = () => 1;"}
    >>> print(bundled("a", texts.__getitem__))
    const b_module = (() => {
    const f = () => 1;
    return { f };
    })();
    const a_module = (() => {
    const { f } = b_module;
    f();
    return {  };
    })();
    """
    done: list[str] = []
    parts: list[str] = []

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"{name}.js needs itself, by {' and '.join(above)}")
        if name in done:
            return
        text = read(name)
        for _, needed in IMPORT.findall(text):
            add(needed, (*above, name))
        given = EXPORT.findall(text)
        code = EXPORT.sub("", IMPORT.sub(r"const { \1 } = \2_module;", text)).rstrip("\n")
        if left := _LEFT.search(code):
            raise ValueError(f"{name}.js: {left[0].strip()!r} is no import or export that can be put into a document")
        parts.append(f"const {name}_module = (() => {{\n{code}\nreturn {{ {', '.join(given)} }};\n}})();")
        done.append(name)

    add(entry, ())
    return "\n".join(parts)
