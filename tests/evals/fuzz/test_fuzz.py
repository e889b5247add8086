"""The fuzzer finds faults that are put in, makes them small, goes on where it ended, and finds nothing today."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from bytelm.tokenizer.viability.viability import Viability
from evals.fuzz import __main__ as fuzz
from evals.fuzz.case import Case
from evals.fuzz.compare import Finding, Outcome, compare
from evals.fuzz.families import FAMILIES, LONG, drawn
from evals.fuzz.minimise import lines_of, minimise
from tests.evals.fuzz.test_definition import BYTE_LEVEL, ab_case, spec_of


def findings(case: Case) -> list[Finding]:
    return compare(case, slow=60, searched=100).findings


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


def test_a_wrong_mask_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling every pair unbroken counts [a, b], which is written ab. The smallest tokenizer that shows it has one merge."""
    monkeypatch.setattr(Viability, "mask", every_pair_unbroken)
    case = ab_case("", "b", "aaba", "baa")
    first = findings(case)[0]
    small, finding = minimise(case, first, findings)
    lines = lines_of(small, finding)

    assert finding.kind == first.kind
    assert (len(small.prefixes), small.spec["model"]["merges"]) == (1, [["a", "b"]])
    assert len(small.spec["model"]["vocab"]) <= 3
    assert built(lines).get_vocab().keys() == {*small.spec["model"]["vocab"], "<end>"}
    assert small.asked == [b"a"]
    assert "prefix = b'a'  # number" in lines


def test_what_is_emitted_and_not_counted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping canonical sequences alone loses those that only a later text makes whole."""
    extend = Viability.extend

    def canonical(viability: Viability, boundary: Any, token: int) -> Any:
        made = extend(viability, boundary, token)
        return made if made is not None and viability.ends_text(made) else None

    monkeypatch.setattr(Viability, "extend", canonical)

    blank = {"type": "Split", "pattern": {"Regex": r"\s+(?!\S)|\s|a"}, "behavior": "Isolated", "invert": False}
    spec = spec_of(["a", "Ġ", "ĠĠ"], [["Ġ", "Ġ"]], [blank, BYTE_LEVEL])

    assert {f.kind for f in findings(Case("by hand", spec, [], "", ["a", " "], [], ["  "]))} == {"missing", "refused"}


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


def test_refusals_are_counted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a tokenizer is refused, without what only one tokenizer has."""
    drops = Case("by hand", spec_of(["a"], [], [{"type": "Whitespace"}, BYTE_LEVEL]), [], "", ["a"], [], ["a"])
    monkeypatch.setattr(fuzz, "drawn", lambda *_: drops)
    counts = run(tmp_path, "--cases", "2", "--family", "splits")["families"]["splits"]

    assert (counts["refused"], counts["found"]) == (2, 0)
    assert list(counts["refusals"].values()) == [2]
    assert fuzz.reason_of("the split pattern '\\w' has a look-behind of 2 at 7: try") == (
        "the split pattern … has a look-behind of … at …: try"
    )


def run(folder: Path, *words: str) -> dict[str, Any]:
    out = folder / "fuzz.json"
    fuzz.main([*words, "--slow", "60", "--json", "--out", str(out)])
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_long_tries_the_tokenizers_with_a_long_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the cases of an ordinary run that have one; a run without --long does not go on in their file."""
    seen: list[Case] = []

    def compared(case: Case, **_: Any) -> Outcome:
        seen.append(case)
        return Outcome()

    monkeypatch.setattr(fuzz, "compare", compared)
    record = run(tmp_path, "--cases", "2", "--family", "merges", "--long")

    assert record["settings"]["long"]
    assert seen == [drawn("merges", 0, number) for number in range(100) if has_long_run(drawn("merges", 0, number))]
    assert fuzz.main(["--cases", "4", "--resume", "--family", "merges", "--out", str(tmp_path / "fuzz.json")]) == 1


def has_long_run(case: Case) -> bool:
    return any(len(prefix) >= LONG for prefix in case.prefixes)


@pytest.fixture
def small_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases of three tokens in place of those that are drawn, and few texts in search of a witness."""
    monkeypatch.setattr(fuzz, "drawn", lambda family, seed, number: ab_case("a", "ba" * (number + 1)))
    monkeypatch.setattr(fuzz, "compare", lambda case, **options: compare(case, **{**options, "searched": 100}))


def told(record: dict[str, Any]) -> list[Any]:
    """A record without times."""
    gone = {"seconds", "slowest"}
    return [record["done"], [{k: v for k, v in c.items() if k not in gone} for c in record["families"].values()]]


@pytest.mark.usefixtures("small_cases")
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

    def drawn_until(family: str, seed: int, number: int) -> Case:
        if family == "splits":
            raise KeyboardInterrupt
        return ab_case("a")

    monkeypatch.setattr(fuzz, "drawn", drawn_until)
    out = tmp_path / "fuzz.json"

    assert fuzz.main(["--family", "merges,splits", "--slow", "60", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "stopped" in shown.err
    assert "merges" in shown.out
    assert json.loads(out.read_text())["done"] == 1
    assert fuzz.main(["--read", str(out)]) == 0
    assert capsys.readouterr().out == shown.out


@pytest.mark.usefixtures("small_cases")
def test_a_thread_tries_one_case_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tokenizers library keeps for a thread goes with it; an error is raised where the case was begun."""
    seen: list[threading.Thread] = []

    def compared(case: Case, **options: Any) -> Any:
        seen.append(threading.current_thread())
        return compare(case, **options, searched=100)

    monkeypatch.setattr(fuzz, "compare", compared)
    run(tmp_path, "--cases", "3", "--family", "merges")

    assert len(set(seen)) == 3
    assert not any(thread.is_alive() for thread in seen)
    with pytest.raises(ZeroDivisionError):
        fuzz.apart(lambda: 1 // 0)


@pytest.mark.usefixtures("small_cases")
def test_a_finding_is_written_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its lines, and with its case, which shows it again."""
    monkeypatch.setattr(Viability, "mask", every_pair_unbroken)
    record = run(tmp_path, "--cases", "1", "--family", "merges")

    assert record["findings"]
    assert fuzz.failed(record)
    found = record["findings"][0]
    assert findings(Case(**found["case"]))
    built(found["lines"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_case_is_its_family_seed_and_number(family: str) -> None:
    """The same three give the same case; another number gives another. It can be written as JSON and read again."""
    case = drawn(family, 1, 2)

    assert drawn(family, 1, 2) == case != drawn(family, 1, 3)
    assert Case(**json.loads(json.dumps(case.as_json()))) == case
    assert len(case.prefixes) <= 41


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
    record = run(tmp_path, "--cases", "4", "--family", family, "--seed", "11")

    assert [finding["lines"] for finding in record["findings"]] == []
    assert record["families"][family]["rows"] > 0


@pytest.mark.slow
def test_a_long_run_agrees() -> None:
    """Three thousand of one character are among the prefixes of every fiftieth case."""
    case = drawn("merges", 11, 49)

    assert max(map(len, case.prefixes)) >= 3000
    assert findings(case) == []


@pytest.mark.usefixtures("small_cases")
def test_results_of_several_families_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What runs of one family each have counted is what one run of both counts; a family twice is an error."""
    for family in ("merges", "splits"):
        fuzz.main(["--cases", "3", "--family", family, "--out", str(tmp_path / family)])
    fuzz.main(["--cases", "6", "--family", "merges,splits", "--out", str(tmp_path / "both")])
    names = [str(tmp_path / "merges"), str(tmp_path / "splits")]

    assert fuzz.main(["--join", *names, "--out", str(tmp_path / "joined")]) == 0
    joined, both = (json.loads((tmp_path / name).read_text()) for name in ("joined", "both"))
    for counts in (*joined["families"].values(), *both["families"].values()):
        del counts["seconds"], counts["slowest"]
    assert (joined["families"], joined["done"]) == (both["families"], both["done"])
    assert len(joined["commands"]) == 2
    capsys.readouterr()
    assert fuzz.main(["--join", names[0], names[0]]) == 1
    assert "a family that another result has" in capsys.readouterr().err
