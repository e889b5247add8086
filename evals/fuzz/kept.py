"""The disagreements that bytelm keeps, as docs/tokenizers.md lists them: texts that it may refuse.

Rules
    A text in such a corner is a witness that bytelm may count and need not. Each corner here is a row of the table
    "Disagreements that are kept", or of the table of families, read no wider than it is written. What a tokenizer never emits may never be counted,
    in a corner or not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from evals.fuzz.case import BYTES, Case, steps_of

Corner = Callable[[Case, str], bool]


def corners_of(case: Case) -> list[Corner]:
    """The corners that texts of a tokenizer may be in: each says whether bytelm may refuse a text that could be spelled."""
    found: list[Corner] = []
    if case.added:
        found = [_strips_space, _words_apart, _not_in_form]
        found += [_begins_text] if case.hides_space else []
    needed = {BYTES[byte] for c in [*case.alphabet, *case.goings, *case.prefixes] for byte in c.encode("utf-8")}
    if not case.filled and not needed <= case.spec["model"]["vocab"].keys():
        found.append(_lacks_byte)
    return found


def _begins_text(case: Case, text: str) -> bool:
    """A hidden leading space, and a text that begins with an added token that begins with one and does not see it."""
    return any(
        text.startswith(token["content"])
        for token in case.added
        if token["content"][0] in " ▁" and not (token["normalized"] and case.prepends)
    )


def _strips_space(case: Case, text: str) -> bool:
    """``lstrip`` or ``rstrip``, and white space beside the token."""
    return any(
        (token["lstrip"] and text[:at][-1:].isspace())
        or (token["rstrip"] and text[at + len(token["content"]) :][:1].isspace())
        for token in case.added
        for at in _found(token["content"].replace("▁", " ") if token["normalized"] else token["content"], text)
    )


def _words_apart(case: Case, text: str) -> bool:
    """``normalized`` tokens with ``single_word``, beside an added token that is not normalized."""
    others = [token["content"] for token in case.added if not token["normalized"]]
    return any(
        beside in (at, at + len(token["content"]))
        for token in case.added
        if token["normalized"] and token["single_word"]
        for at in _found(token["content"], text)
        for other in others
        for place in _found(other, text)
        for beside in (place, place + len(other))
    )


def _not_in_form(case: Case, text: str) -> bool:
    """NFC or NFD, and a text that is not in that form, which an added token may yet bring back."""
    forms = [step["type"] for step in steps_of(case.spec["normalizer"]) if step["type"] in ("NFC", "NFD")]
    changed = any(unicodedata.normalize(form, text) != text for form in forms)
    return changed and any(token["content"] in text for token in case.added)


def _lacks_byte(case: Case, text: str) -> bool:
    """A byte-level vocabulary that lacks single bytes: only whole pieces and added tokens spell them."""
    return any(BYTES[byte] not in case.spec["model"]["vocab"] for byte in text.encode())


def _found(content: str, text: str) -> list[int]:
    places = range(len(text) - len(content) + 1)
    return [at for at in places if text.startswith(content, at)]
