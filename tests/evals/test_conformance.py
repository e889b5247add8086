"""A stated sample of the conformance run, and the oracle itself against what is known of real tokenizers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from bytelm.testing.tokenizers.classes import ALL_TEXT, Classes, atoms, code_range, folded, split_cut
from bytelm.testing.tokenizers.definition import Definition
from bytelm.testing.tokenizers.judge import Judge
from bytelm.testing.tokenizers.trial import TokenizerReport, TokenizerTrial
from bytelm.tokenizer.viability.viability import Viability
from evals import conformance
from tests.support.oracle import Enumeration, depth_for
from tests.support.strategies import Toy, byte_level
from tests.support.tiny import byte_bpe_tokenizer
from tests.support.variants import VARIANTS, variant

SUPPORTED = (
    "cl100k",
    "deepseek_v3",
    "gemma3",
    "gpt2",
    "llama2",
    "llama3",
    "mistral_v3",
    "o200k",
    "qwen3",
    "smollm2",
    "tekken",
)
LIGHT = ("gpt2", "llama2", "smollm2")

# Read off the tokenizers by people who had been caught out by them.
KNOWN = [
    ("gpt2", "a\n\nb", ["a", "\n", "\n", "b"]),
    ("gpt2", "a\n\n", ["a", "\n\n"]),
    ("gpt2", "x='mega'", ["x", "='", "mega", "'"]),
    ("llama3", "x='mega'", ["x", "='", "mega", "'"]),
    ("gpt2", "'mega", ["'m", "ega"]),
    ("llama3", "'mega", ["'m", "ega"]),
    ("gpt2", "1234567", ["123", "45", "67"]),
    ("llama3", "1234567", ["123", "456", "7"]),
    ("llama3", "a   b", ["a", "  ", " b"]),
    ("gpt2", "a   b", ["a", " ", " ", " b"]),
    ("llama2", "a\n\nb", [" a", "\n", "\n", "b"]),
    ("llama2", "1234567", [" ", "1", "2", "3", "4", "5", "6", "7"]),
    ("smollm2", "return a + b\n\nprint(1)", ["return", " a", " +", " b", "\n", "\n", "print", "(", "1", ")"]),
]


@pytest.mark.parametrize(("name", "text", "tokens"), KNOWN, ids=lambda part: repr(part)[:24])
def test_enc_and_dec_are_as_read_off_by_hand(
    name: str, text: str, tokens: list[str], load_tokenizer: Callable[[str], Any]
) -> None:
    """The oracle's encoder and its bytes of tokens give the table of notes that was read off each tokenizer."""
    definition = Definition(load_tokenizer(name))
    ids = definition.enc(text.encode())

    assert ids is not None
    assert [definition.token_bytes[i] for i in ids] == [token.encode() for token in tokens]


@pytest.mark.parametrize(
    ("name", "text"), [("qwen3", "e\u0301"), ("llama2", "a▁b"), ("gpt2", b"\xff"), ("smollm2", b"a\xc3")]
)
def test_text_that_changes_has_no_canonical_sequence(
    name: str, text: str | bytes, load_tokenizer: Callable[[str], Any]
) -> None:
    """Text that a normalizer changes, ▁ where it stands for a space, and bytes that are no UTF-8 have none."""
    data = text.encode() if isinstance(text, str) else text

    assert Definition(load_tokenizer(name)).enc(data) is None


def test_the_hidden_space_is_left_out_after_a_sentinel(load_tokenizer: Callable[[str], Any]) -> None:
    """With ``dummy_prefix=False`` the oracle encodes as the tokenizer does after a sentinel: nothing is put in front."""
    tokenizer = load_tokenizer("llama2")
    with_lead, without = Definition(tokenizer), Definition(tokenizer, dummy_prefix=False)

    assert with_lead.enc(b"Hello") == without.enc(b" Hello")
    assert without.enc(b"Hello") != with_lead.enc(b"Hello")


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(byte_level())
def test_continuations_find_what_all_texts_show(toy: Toy) -> None:
    """On tokenizers whose texts can all be listed, the judge's continuations find every node and no other."""
    depth = depth_for(toy.alphabet, 6000)
    everything = Enumeration(toy.backend, toy.alphabet, depth)
    judge = Judge(everything.definition)
    for prefix in everything.prefixes(3)[:8]:
        if len(prefix.decode(errors="replace")) + toy.longest > depth - 4:
            continue
        found = judge.find(prefix, pairs=200, wide=60, each=40)

        assert set(found.nodes) == everything.nodes(prefix), toy.what
        assert {found.ending} - {None} == everything.ending(prefix)


@pytest.mark.parametrize(
    ("pattern", "found", "literals"),
    [
        (r"'(?:s|t)| ?[^\s\p{L}]+|\p{N}{1,3}", {r"[^\s\p{L}]", r"\s", r"\p{L}", r"\p{N}"}, {"'", "s", "t", " "}),
        (r"(?i:'ll)|\s*[\r\n]+|\s+(?!\S)", {r"\s", r"[\r\n]", r"\S"}, {"'", "l", "\r", "\n"}),
        (r"[a-z&&[^aeiou]]|(?<=\d)\x{41}", {r"[a-z&&[^aeiou]]", "[^aeiou]", r"\d"}, {"A", "a", "z", "-", "e", "i", "o", "u"}),
        (r"[]a]|[^]b]|.\.", {"[]a]", "[^]b]", "."}, {"]", "a", "b", "."}),
    ],
)  # fmt: skip
def test_atoms_of_a_pattern(pattern: str, found: set[str], literals: set[str]) -> None:
    """A pattern comes apart into what matches one character."""
    assert atoms(pattern) == (found, literals)


def test_case_is_folded_as_the_engine_folds_it() -> None:
    """The long s and the Kelvin sign are found by asking the engine, not by a list."""
    assert (set(folded("s")), set(folded("k"))) == ({"s", "S", "\u017f"}, {"k", "K", "\u212a"})


def test_classes_tell_apart_what_the_split_does(load_tokenizer: Callable[[str], Any]) -> None:
    """Under Llama 3's pattern the long s is a class of its own, and so are a line break, another space and a digit."""
    import random

    classes = Classes.of(Definition(load_tokenizer("llama3")), random.Random(0))
    label = {c: classes.label[ALL_TEXT.index(c)] for c in "sſtab\n\u2028 1²'\"éñ"}

    assert len({label[c] for c in "sſta\n\u2028 1²'\""}) == 11
    assert label["a"] == label["b"]
    assert label["é"] == label["ñ"]


@pytest.mark.parametrize("cut", [b"\xc2", b"\xc3", b"\xe0", b"\xed", b"\xed\x9f", b"\xf0\x9f", b"\xf4", b"\xe6\x97"])
def test_the_characters_that_begin_with_some_bytes(cut: bytes) -> None:
    """The range of code points of a cut character is that of all characters whose UTF-8 begins so."""
    points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000 and chr(p).encode().startswith(cut)]

    assert list(code_range(cut)) == points
    assert split_cut(b"a" + cut) == ("a", cut)


@pytest.mark.parametrize("data", [b"\xff", b"a\xc0", b"\xed\xa0", b"\xf4\x90", b"\xe2\x28", b"\x80"])
def test_bytes_that_begin_no_text(data: bytes) -> None:
    """Bytes that no UTF-8 text begins with have no characters to complete them."""
    assert split_cut(data) is None


def test_a_witness_may_need_more_than_a_character(load_tokenizer: Callable[[str], Any]) -> None:
    """After つ° the token F0 9F 8D is completed only by tokens that stop inside the next character, which is no letter."""
    judge = Judge(Definition(load_tokenizer("qwen3")))
    spelled = {data: i for i, data in judge.definition.token_bytes.items()}
    sequence = tuple(spelled[data] for data in ("つ".encode(), "°".encode(), b"\xf0\x9f\x8d"))

    assert sequence in judge.viable([sequence], {sequence: True})


def trial_of(name: str, test_data: Path, **options: Any) -> TokenizerTrial:
    return TokenizerTrial(test_data / "tokenizers" / f"{name}.json.xz", name, **options)


@pytest.mark.parametrize("name", LIGHT)
def test_a_sample_agrees(name: str, test_data: Path) -> None:
    """Twenty-five prefixes of the conformance corpus, with sixty leaves for each node: no disagreement."""
    report = trial_of(name, test_data, seed=1, leaves=60, effort=0.5).run(25)

    assert report.disagreements == []
    assert report.prefixes == 25


@pytest.mark.slow
@pytest.mark.parametrize("name", SUPPORTED)
def test_a_larger_sample_agrees(name: str, test_data: Path) -> None:
    """A hundred prefixes on every supported tokenizer, with a hundred leaves for each node: no disagreement."""
    report = trial_of(name, test_data, seed=2, leaves=100).run(100)

    assert report.disagreements == []


@pytest.mark.parametrize("name", ["llama2", "mistral_v3"])
def test_a_sample_agrees_without_the_hidden_space(name: str, test_data: Path) -> None:
    """So it is where the hidden leading space does not apply."""
    report = trial_of(name, test_data, seed=3, leaves=40, effort=0.5, dummy_prefix=False).run(15)

    assert report.disagreements == []


@pytest.mark.parametrize("name", ["a tab is a piece", "prefix space"])
def test_a_sample_of_other_shapes_agrees(name: str, test_data: Path) -> None:
    """So do the shapes of published tokenizers whose files are not here (tests/support/variants.py)."""
    report = TokenizerTrial(variant(name, test_data), name, seed=4, leaves=40, effort=0.2).run(10)

    assert (report.refused, report.disagreements) == (None, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_many_prefixes_of_other_shapes_agree(name: str, test_data: Path) -> None:
    """Many prefixes of each such shape, as many as BYTELM_PREFIXES says: no disagreement."""
    count = int(os.environ.get("BYTELM_PREFIXES", "40"))
    report = TokenizerTrial(variant(name, test_data), name, seed=5, leaves=20, effort=0.1).run(count)

    assert (report.refused, report.prefixes, report.disagreements) == (None, count, [])


@pytest.mark.parametrize("name", ["clip", "unigram_toy"])
def test_tokenizers_that_lose_text_are_refused(name: str, test_data: Path) -> None:
    """What bytelm refuses does not give back the texts that it is given."""
    report = trial_of(name, test_data).run(10)

    assert report.refused
    assert report.round_trips < 0.5
    assert report.prefixes == 0


def broken_mask(viability: Viability, boundary: Any, lo: int, hi: int) -> np.ndarray:
    return np.ones(hi - lo, np.bool_)


def test_a_mask_that_is_wrong_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling every pair unbroken shows as leaves that bytelm claims and no text shows."""
    monkeypatch.setattr(Viability, "mask", broken_mask)
    report = TokenizerTrial(byte_bpe_tokenizer(), "tiny", leaves=20, effort=0.2).run(5)

    assert any(d.what == "leaf" and d.claim for d in report.disagreements)


def test_nodes_that_are_missing_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping only the canonical sequences shows as nodes that bytelm lacks, each with the text that shows it."""
    extend = Viability.extend

    def canonical(viability: Viability, boundary: Any, token: int) -> Any:
        made = extend(viability, boundary, token)
        return made if made is not None and viability.ends_text(made) else None

    monkeypatch.setattr(Viability, "extend", canonical)
    trial = TokenizerTrial(byte_bpe_tokenizer(), "tiny", leaves=20, effort=0.2)
    monkeypatch.delitem(vars(trial.viability), "extend", raising=False)  # answers that it keeps (kept.py)
    trial.document(b"a  b\n\n\nc", range(9), set())
    missing = [d for d in trial.report.disagreements if d.what == "node" and not d.claim]

    assert missing
    assert all(d.witness for d in missing)


def test_the_command_writes_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m evals.conformance FILE --json --out RECORD` prints what it writes, and exits 0 on agreement."""
    file = tmp_path / "tiny.json"
    file.write_text(byte_bpe_tokenizer().backend_tokenizer.to_str())
    options = ["--prefixes", "8", "--leaves", "20", "--effort", "0.2", "--json", "--out", str(tmp_path / "record.json")]
    status = conformance.main([str(file), *options])
    record = json.loads((tmp_path / "record.json").read_text())

    assert status == 0
    assert json.loads(capsys.readouterr().out) == record
    assert record["tokenizers"][0]["prefixes"] == 8

    conformance.main(["--read", str(tmp_path / "record.json")])
    assert "tiny" in capsys.readouterr().out
    assert record["command"] == f"python -m evals.conformance tiny.json {' '.join(options[:-1])} record.json"


def test_a_row_of_the_table_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 120 columns, with figures as long as they become; a tokenizer that is refused stands below."""
    row = TokenizerReport(
        "deepseek_v3 (no lead)", prefixes=50_000, unreachable=1_000, nodes=100_000, leaves=19_000_000
    ).summary()
    row |= {"core_ms_median": 1.26181, "core_ms_p99": 1397.0183, "load_seconds": 12.03, "reload_seconds": None}
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"tokenizers": [row, {**row, "refused": "why", "round_trips": 0.25}]}))

    assert conformance.main(["--read", str(record)]) == 0
    shown = capsys.readouterr().out.splitlines()

    *rows, below = [line for line in shown if "deepseek_v3" in line]
    assert [" ".join(line.split()) for line in rows] == [
        "deepseek_v3 (no lead) 50,000 1,000 100,000 19,000,000 0 1.26 1,397.02 12.03 -"
    ]
    assert below.strip() == "deepseek_v3 (no lead): refused, gives back 25% of texts"
    assert shown[-1] == below
    assert max(map(len, shown)) <= 120


def test_a_run_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --resume, tokenizers that the record holds for the same settings are not tried again; others are."""
    out = tmp_path / "record.json"
    files = [tmp_path / f"{name}.json" for name in ("one", "two")]
    for file in files:
        file.write_text(byte_bpe_tokenizer().backend_tokenizer.to_str())
    options = ["--prefixes", "2", "--leaves", "10", "--effort", "0.1", "--out", str(out), "--resume"]
    conformance.main([str(files[0]), *options])
    tried: list[str] = []

    class Watched(TokenizerTrial):
        def __init__(self, path: str, *rest: Any, **options: Any) -> None:
            tried.append(path)
            super().__init__(path, *rest, **options)

    monkeypatch.setattr(conformance, "TokenizerTrial", Watched)
    conformance.main([*map(str, files), *options])

    assert tried == [str(files[1])]
    assert [row["tokenizer"] for row in json.loads(out.read_text())["tokenizers"]] == ["one", "two"]

    conformance.main([*map(str, files), *options, "--seed", "1"])
    assert tried == [str(file) for file in (files[1], *files)]


def test_reports_of_parts_add_up() -> None:
    """A run that was shared out among processes is the sum of its parts."""
    whole = TokenizerReport("x", prefixes=3, nodes=7, core_ms=[1.0])
    whole.merge(TokenizerReport("x", prefixes=2, nodes=5, core_ms=[3.0]))

    assert (whole.prefixes, whole.nodes, whole.summary()["core_ms_median"]) == (5, 12, 2.0)
