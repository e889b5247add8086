"""The fuzzer finds faults that are put in, makes them small, goes on where it ended, and finds nothing today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from bytelm.tokenizer.viability.viability import Viability
from evals.fuzz import __main__ as fuzz
from evals.fuzz.case import Case
from evals.fuzz.compare import Finding, compare
from evals.fuzz.families import FAMILIES, drawn
from evals.fuzz.minimise import lines_of, minimise
from tests.evals.fuzz.test_definition import ab_case


def findings(case: Case) -> list[Finding]:
    return compare(case, slow=60).findings


def built(lines: str) -> Tokenizer:
    """The tokenizer that lines for a test build."""
    names: dict[str, Any] = {"json": json, "Tokenizer": Tokenizer, "AddedToken": AddedToken}
    exec(lines, names)  # noqa: S102 - what is pasted has to run
    tokenizer = names["backend"]
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer


def test_a_small_tokenizer_agrees() -> None:
    """Every prefix is compared, those that are no text too."""
    outcome = compare(ab_case("", "a", "ab", "aab", "ba", "c", "\xff"), slow=60)

    assert outcome.findings == []
    assert (outcome.refused, outcome.prefixes, outcome.rows) == (None, 7, 5)
    assert sum(outcome.parts) == 16


def every_pair_unbroken(viability: Viability, boundary: Any, lo: int, hi: int) -> np.ndarray:
    return np.ones(hi - lo, np.bool_)


def test_what_is_counted_and_never_emitted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling every pair unbroken counts [a, b], and the smallest tokenizer that shows it has one merge."""
    monkeypatch.setattr(Viability, "mask", every_pair_unbroken)
    case = next(
        c for c in (drawn("merges", 0, n) for n in range(1, 9)) if any(f.kind == "claimed" for f in findings(c))
    )
    first = next(f for f in findings(case) if f.kind == "claimed")
    small, finding = minimise(case, first, findings, seconds=30)
    lines = lines_of(small, finding)

    assert finding.kind == "claimed"
    assert len(small.spec["model"]["merges"]) == 1
    assert len(small.spec["model"]["vocab"]) <= 4
    assert len(small.prefixes) == 1
    assert built(lines).get_vocab().keys() == {*small.spec["model"]["vocab"], "<end>"}
    assert repr(small.asked[0]) in lines


def test_what_is_emitted_and_not_counted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping canonical sequences alone loses those that only a later text makes whole."""
    extend = Viability.extend

    def canonical(viability: Viability, boundary: Any, token: int) -> Any:
        made = extend(viability, boundary, token)
        return made if made is not None and viability.ends_text(made) else None

    monkeypatch.setattr(Viability, "extend", canonical)

    kinds = {f.kind for n in range(1, 9) for f in findings(drawn("splits", 0, n))}

    assert kinds & {"missing", "refused"}


def test_a_wrong_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that never ends has no end in its row."""
    monkeypatch.setattr(Viability, "ends_text", lambda viability, boundary: False)

    assert "number" in {f.kind for f in findings(ab_case("a"))}


def test_an_error_that_is_none_of_ours_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the constructor and later."""
    case = ab_case("a")
    monkeypatch.setattr(Viability, "mask", lambda *_: 1 // 0)
    assert {f.kind for f in findings(case)} == {"error"}

    monkeypatch.setattr(Viability, "from_tokenizer", lambda *_, **__: 1 // 0)
    (finding,) = findings(case)
    assert (finding.kind, finding.prefix) == ("error", None)
    assert "ZeroDivisionError" in finding.detail


def test_refusals_are_counted_by_name(tmp_path: Path) -> None:
    """Why a tokenizer is refused, without what only one tokenizer has."""
    record = run(tmp_path, "--cases", "30", "--family", "splits")
    counts = record["families"]["splits"]

    assert counts["refused"] == sum(counts["refusals"].values()) > 0
    assert fuzz.reason_of("the split pattern '\\w' has a look-behind of 2 at 7: try") == (
        "the split pattern … has a look-behind of … at …: try"
    )


def run(folder: Path, *words: str) -> dict[str, Any]:
    out = folder / "fuzz.json"
    fuzz.main([*words, "--slow", "60", "--json", "--out", str(out)])
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def told(record: dict[str, Any]) -> list[Any]:
    """A record without times."""
    gone = {"seconds", "slowest"}
    return [record["done"], [{k: v for k, v in c.items() if k not in gone} for c in record["families"].values()]]


def test_a_run_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two cases and then two more are four cases; other settings are refused."""
    whole = run(tmp_path, "--cases", "4", "--family", "merges,splits")
    (tmp_path / "fuzz.json").unlink()
    run(tmp_path, "--cases", "2", "--family", "merges,splits")

    assert told(run(tmp_path, "--cases", "4", "--family", "merges,splits", "--resume")) == told(whole)
    assert whole["families"]["merges"]["cases"] == 2

    assert fuzz.main(["--cases", "4", "--resume", "--seed", "1", "--out", str(tmp_path / "fuzz.json")]) == 1
    assert "other settings" in capsys.readouterr().err


def test_a_run_that_is_stopped_shows_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends it with the table; what was done stays, and --read shows it again."""
    compared = fuzz.compare

    def stopped(case: Case, **options: Any) -> Any:
        if case.family == "splits":
            raise KeyboardInterrupt
        return compared(case, **options)

    monkeypatch.setattr(fuzz, "compare", stopped)
    out = tmp_path / "fuzz.json"

    assert fuzz.main(["--family", "merges,splits", "--slow", "60", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "stopped" in shown.err
    assert "merges" in shown.out
    assert json.loads(out.read_text())["done"] == 1
    assert fuzz.main(["--read", str(out)]) == 0
    assert capsys.readouterr().out == shown.out


def test_a_finding_is_written_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its lines, its case and its number: the case is drawn again from these."""
    monkeypatch.setattr(Viability, "mask", every_pair_unbroken)
    record = run(tmp_path, "--cases", "6", "--family", "merges", "--minimise", "1")

    assert record["findings"]
    assert fuzz.failed(record)
    found = record["findings"][0]
    assert findings(Case(**found["case"]))
    assert findings(drawn("merges", 0, found["number"]))
    built(found["lines"])


def test_draws_that_do_not_follow_the_rows_fail() -> None:
    """A thousand draws, all in the first tenth, are no chance; ten are."""
    counts = {"draws": [1000] + [0] * 9, "found": 0}

    assert fuzz.law(counts) < fuzz.UNLIKELY
    assert fuzz.law({"draws": [10] + [0] * 9}) == 1
    assert fuzz.failed({"families": {"merges": counts}})


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_share_of_the_random_tokenizers_agrees(family: str, tmp_path: Path) -> None:
    """Some tokenizers of each family, forty texts each: no disagreement."""
    record = run(tmp_path, "--cases", "6", "--family", family, "--seed", "11")

    assert [finding["lines"] for finding in record["findings"]] == []
    assert record["families"][family]["rows"] > 0
