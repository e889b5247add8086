"""The smallest case that shows a finding, and the lines that show it in a test.

Rules
    A change is kept if the case then still has a finding of the same kind. What is tried: one prefix alone and a
    shorter one, fewer characters, added tokens, flags, merges, pieces and steps, fewer alternatives of a pattern, and a
    partial vocabulary in place of all bytes. It goes round until nothing can be left out, or the time is up.
Cost
    A comparison of one prefix for each try; `SECONDS` at most, and little more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from evals.fuzz.case import BYTES, END, Case, steps_of
from evals.fuzz.compare import Finding, UnbuiltError

SECONDS: Final = 20.0

Compare = Callable[[Case], list[Finding]]


def minimise(case: Case, finding: Finding, findings_of: Compare, *, seconds: float = SECONDS) -> tuple[Case, Finding]:
    """The smallest case found that has a finding of the same kind, and that finding."""
    ends = time.monotonic() + seconds
    if finding.prefix is not None:
        case, finding = _kept(replace(case, prefixes=[finding.prefix]), finding, findings_of) or (case, finding)
    again = True
    while again:
        again, at = False, 0
        tries = list(_smaller(case))
        while at < len(tries):
            if time.monotonic() > ends:
                return case, finding
            if found := _kept(tries[at], finding, findings_of):
                case, finding = found
                again, tries = True, list(_smaller(case))  # what follows is at about the same place
            else:
                at += 1
    return case, finding


def _kept(case: Case, finding: Finding, findings_of: Compare) -> tuple[Case, Finding] | None:
    try:
        found = findings_of(case)
    except UnbuiltError:
        return None
    same = [each for each in found if each.kind == finding.kind]
    return (case, same[0]) if same else None


def _smaller(case: Case) -> Iterator[Case]:
    """Cases with one thing less, what saves most first."""
    spec = case.spec
    for key in ("normalizer", "pre_tokenizer"):
        steps = list(steps_of(spec[key]))
        for at, step in enumerate(steps):
            if step["type"] != "ByteLevel":
                yield _with_steps(case, key, steps[:at] + steps[at + 1 :])
    if len(case.prefixes) > 1:
        half = len(case.prefixes) // 2
        yield replace(case, prefixes=case.prefixes[:half])
        yield replace(case, prefixes=case.prefixes[half:])
    for at in range(len(case.added)):
        yield replace(case, added=case.added[:at] + case.added[at + 1 :])
    yield from _fewer_pieces(case)
    for name in ("goings", "alphabet"):
        held = getattr(case, name)
        for at in range(len(held)):
            if name == "goings" or len(held) > 1:
                yield replace(case, **{name: held[:at] + held[at + 1 :]})
    yield from _plainer(case)
    if len(case.prefixes) == 1:
        data = case.prefixes[0]
        if len(data) > 40:
            yield replace(case, prefixes=[data[: len(data) // 2]])
        else:
            for at in range(len(data)):
                yield replace(case, prefixes=[data[:at] + data[at + 1 :]])


def _with_steps(case: Case, key: str, steps: list[dict[str, Any]]) -> Case:
    inner = "normalizers" if key == "normalizer" else "pretokenizers"
    return replace(case, spec=case.spec | {key: {"type": "Sequence", inner: steps} if steps else None})


def _with_model(case: Case, **changed: Any) -> Case:
    return replace(case, spec=case.spec | {"model": case.spec["model"] | changed})


def _fewer_pieces(case: Case) -> Iterator[Case]:
    model = case.spec["model"]
    vocab, merges = model["vocab"], model["merges"]
    if case.filled == "bytes":
        needed = dict.fromkeys(byte for c in [*case.alphabet, *case.goings] for byte in c.encode())
        first = 1 + max(vocab.values(), default=-1)
        fresh = [BYTES[byte] for byte in needed if BYTES[byte] not in vocab]
        yield replace(_with_model(case, vocab=vocab | {p: first + i for i, p in enumerate(fresh)}), filled="")
    if len(merges) > 3:
        yield _with_model(case, merges=merges[: len(merges) // 2])
    for at in range(len(merges)):
        yield _with_model(case, merges=merges[:at] + merges[at + 1 :])
    parts = {part for a, b in merges for part in (a, b, a + b)} | {model.get("unk_token")}
    for piece in vocab:
        if piece not in parts:
            yield _with_model(case, vocab={p: i for i, p in enumerate(p for p in vocab if p != piece)})


def _plainer(case: Case) -> Iterator[Case]:
    """Flags off, and less of a pattern."""
    if case.spec["model"].get("ignore_merges"):
        yield _with_model(case, ignore_merges=False)
    for at, token in enumerate(case.added):
        for flag in ("lstrip", "rstrip", "single_word", "special", "normalized"):
            if token[flag]:
                yield replace(case, added=[*case.added[:at], token | {flag: False}, *case.added[at + 1 :]])
    steps = list(steps_of(case.spec["pre_tokenizer"]))
    for at, step in enumerate(steps):
        for change in _plainer_steps(step):
            yield _with_steps(case, "pre_tokenizer", [*steps[:at], step | change, *steps[at + 1 :]])


def _plainer_steps(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if step.get("use_regex"):
        yield {"use_regex": False}
    if step.get("invert"):
        yield {"invert": False}
    if step.get("behavior", "Isolated") != "Isolated":
        yield {"behavior": "Isolated"}
    if regex := step.get("pattern", {}).get("Regex"):
        parts = regex.split("|")  # wherever it stands: what is no pattern then is not built
        for at in range(len(parts) if len(parts) > 1 else 0):
            yield {"pattern": {"Regex": "|".join(parts[:at] + parts[at + 1 :])}}
        for size in (12, 6, 3, 2, 1):
            for at in range(len(regex) - size + 1 if len(regex) > size else 0):
                yield {"pattern": {"Regex": regex[:at] + regex[at + size :]}}


def signature(case: Case, finding: Finding) -> str:
    """What a finding has to do with: its kind, and the steps and flags of its case."""
    parts = [finding.kind]
    for step in [*steps_of(case.spec["normalizer"]), *steps_of(case.spec["pre_tokenizer"])]:
        told = [str(step[k]) for k in ("behavior", "prepend_scheme") if k in step]
        parts.append("-".join([step["type"], *told, *(k for k in ("add_prefix_space", "invert") if step.get(k))]))
    for token in case.added:
        parts.append("+".join(["token", *(k for k, v in sorted(token.items()) if v is True)]))
    parts += ["ignore_merges"] if case.spec["model"].get("ignore_merges") else []
    parts += ["merges"] if case.spec["model"]["merges"] else []
    return " ".join(parts)


def lines_of(case: Case, finding: Finding) -> str:
    """Lines for a test: they build the tokenizer and say what was found."""
    found = [f"spec = json.loads({json.dumps(case.spec, ensure_ascii=True)!r})"]
    if case.filled == "fallback":
        found.append(
            'for byte in range(256):\n    spec["model"]["vocab"].setdefault(f"<0x{byte:02X}>", len(spec["model"]["vocab"]))'
        )
    if case.filled == "bytes":
        found.append(
            f"for piece in {''.join(BYTES)!r}:\n    "
            'spec["model"]["vocab"].setdefault(piece, len(spec["model"]["vocab"]))'
        )
    found.append(f'spec["model"]["vocab"][{END!r}] = len(spec["model"]["vocab"])')
    found.append("backend = Tokenizer.from_str(json.dumps(spec))")
    for token in case.added:
        flags = ", ".join(f"{key}={value}" for key, value in token.items() if key != "content")
        found.append(
            f"backend.add_{'special_' if token['special'] else ''}tokens([AddedToken({token['content']!r}, {flags})])"
        )
    found.append(f"backend.add_special_tokens([AddedToken({END!r}, special=True)])")
    prefix = None if finding.prefix is None else finding.prefix.encode("latin-1")
    found.append(f"prefix = {prefix!r}  # {finding.kind}: {finding.detail}")
    return "\n".join(found)
