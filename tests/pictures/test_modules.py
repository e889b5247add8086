"""Modules as one script: order, names, and what is refused."""

from __future__ import annotations

import re

import pytest

from bytelm.pictures.document import PAGE
from bytelm.pictures.modules import bundled


def test_what_is_needed_comes_first_and_once() -> None:
    """A module that two others need is there once, before both."""
    texts = {
        "a": 'import { b } from "./b.js";\nimport { c } from "./c.js";\nb(c);',
        "b": 'import { c } from "./c.js";\nexport function b() {\n  return c;\n}',
        "c": "export const c = 1;\nconst own = 2;",
    }

    script = bundled("a", texts.__getitem__)

    assert re.findall(r"const (\w+)_module", script) == ["c", "b", "a"]
    assert "return { c };" in script
    assert "const { c } = c_module;" in script


@pytest.mark.parametrize(
    "text",
    [
        'import b from "./b.js";',
        'import * as b from "./b.js";',
        'import {\n  b,\n} from "./b.js";',
        'import { b } from "https://example.org/b.js";',
        "export default 1;",
        "export { a };",
        "export let a = 1;",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    """An import or an export of another form is an error, not a script that fails in the browser."""
    with pytest.raises(ValueError, match="no import or export"):
        bundled("a", {"a": text, "b": ""}.__getitem__)


def test_modules_that_need_each_other_are_refused() -> None:
    texts = {"a": 'import { b } from "./b.js";', "b": 'import { a } from "./a.js";'}

    with pytest.raises(ValueError, match=r"a\.js needs itself, by a and b"):
        bundled("a", texts.__getitem__)


def test_every_file_of_the_page_is_understood() -> None:
    """Each module that the server and the documents share can be put into a document; none ends its element."""
    names = [path.name.removesuffix(".js") for path in PAGE.iterdir() if path.name.endswith(".js")]

    assert len(names) >= 7
    for name in names:
        script = bundled(name, lambda each: (PAGE / f"{each}.js").read_text(encoding="utf-8"))
        assert "</script" not in script
        assert "<!--" not in script
    assert all("</style" not in path.read_text() for path in PAGE.iterdir() if path.name.endswith(".css"))
