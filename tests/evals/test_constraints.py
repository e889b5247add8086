"""Constraints measured: cases that validators agree on, laws listed by hand, what a line holds, the tables, going on."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from bytelm import ByteLM, TableLM, constraints
from bytelm.errors import ConstraintError
from bytelm.symbols import EOT, SYMBOLS
from evals.constraints import __main__ as evaluation
from evals.constraints.cases import KINDS, Case, is_call, is_expression, is_query, meets, read_cases
from evals.constraints.distance import chance_of, distance_of, drawn_of, masked_law, variation_of
from evals.constraints.peers import Matcher, OverTokens, RefusedError
from evals.constraints.programs import PEERS
from evals.constraints.summary import of
from evals.report.errors import DataError
from evals.report.records import read_records
from tests.support.languages import language
from tests.support.tiny import default_tokenizer, sentencepiece_bpe_tokenizer

CASES: Final = {case.id: case for case in read_cases()}


def toy(seed: int = 1) -> ByteLM:
    return ByteLM(TableLM(default_tokenizer(), order=2, temperature=2.0, seed=seed))


# ---- cases


def test_the_set_is_large_and_varied() -> None:
    """At least 40 cases, each with its name, and all kinds; what users ask for is among them."""
    whole = json.dumps([case.given for case in CASES.values()], ensure_ascii=False)

    assert len(read_cases()) == len(CASES) >= 40
    assert {case.kind for case in CASES.values()} == {*KINDS}
    words = ("$ref", "anyOf", "enum", "const", "pattern", "maxItems", "minimum", "boolean", "null", "date-time", "東京")
    assert [word for word in words if word not in whole] == []
    assert sum(case.distance for case in CASES.values()) >= 5


def walked(case: Case, seed: int, most: int = 400) -> bytes | None:
    """A text of a case, drawn from its masks alone, without a model; None where it has no end among so many bytes."""
    random, state, text = np.random.default_rng(seed), case.constraint().state(), b""
    while len(text) < most:
        mask = state.allowed()
        # Letters are rare among the bytes that a string allows, and its end is one of them: it is drawn more often.
        weights = mask * np.where(np.isin(np.arange(SYMBOLS), [*b'"}]', EOT]), 8.0, 1.0)
        symbol = int(random.choice(SYMBOLS, p=weights / weights.sum()))
        if symbol == EOT:
            return text
        state.advance(bytes([symbol]))
        text += bytes([symbol])
    return None


@pytest.mark.parametrize("name", CASES)
def test_validators_and_masks_agree(name: str) -> None:
    """Texts drawn from the masks of a case are valid, and one with more behind it is not."""
    case = CASES[name]
    texts = [text for seed in range(6) if (text := walked(case, seed)) is not None]

    assert texts
    assert all(case.valid(text.decode()) for text in texts)
    assert not case.valid(texts[0].decode() + " x")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("person", '{"name":"A","age":"4","city":"B"}'),
        ("person", '{"name":"A","age":4}'),
        ("person", '{"name":"A","age":4,"city":"B","more":1}'),
        ("address", '{"name":"A","address":{"street":"B","city":"C","zip":"123","country":"US"}}'),
        ("classification", '{"label":"positive","confidence":1.5}'),
        ("tags", '{"tags":["bread"]}'),
        ("event", '{"title":"A","date":"2025-02-30","all_day":true}'),
        ("log entry", '{"time":"2025-01-01T00:00:00","level":"INFO","message":""}'),
        ("server", '{"host":"192.168.0.256","port":1,"tls":true}'),
        ("uuid", '{"id":"1","active":true}'),
        ("booking", '{"guests":1,"email":"nobody","window_seat":true}'),
        ("iso date", "1969-13-20"),
        ("iso date", "1969-07-20 "),
        ("hiragana", "アア"),
        ("capital", "Lisbon"),
        ("sql select", "SELECT id FROM users"),
    ],
)
def test_what_is_invalid_is_seen(name: str, text: str) -> None:
    """A wrong type, a missing or further key, a bad pattern, bound, length, format or choice."""
    assert not CASES[name].valid(text)


def test_times_are_those_of_the_standard() -> None:
    """RFC 3339 has a year 0 and leap seconds, which Python's own reader does not know."""
    schema = CASES["log entry"].given

    assert meets('{"time":"0000-02-29T23:59:60z","level":"INFO","message":""}', schema)
    assert not meets('{"time":"0001-02-29T23:59:60Z","level":"INFO","message":""}', schema)


def test_parsers_refuse_what_is_none() -> None:
    """Of Python and of SQLite; and JSON in which a key comes twice, or NaN."""
    assert [is_expression(text) for text in ("(1 + 2) * 3", "(1 + 2", "")] == [True, False, False]
    assert [is_call(text) for text in ("f(1, a=2)", "f(a=1, 2)", "f", "f.g()")] == [True, False, False, False]
    queries = ("SELECT name FROM users;", "SELECT other FROM users;", "SELECT id FROM users; SELECT id FROM users;")
    assert [is_query(text) for text in queries] == [True, False, False]
    assert [meets(text, {}) for text in ('{"a":1}', '{"a":1,"a":2}', "NaN", "{")] == [True, False, False, False]


# ---- distance


class Rows:
    """A byte model by hand: a distribution for each text, the same for one that is not listed."""

    def __init__(self, rows: dict[bytes, dict[int, float]]) -> None:
        self.rows = rows

    def next_byte_logprobs(self, prefix: bytes) -> np.ndarray:
        row = np.full(SYMBOLS, 1e-300)
        for symbol, probability in self.rows[prefix].items():
            row[symbol] = probability
        logprobs: np.ndarray = np.log(row)
        return logprobs

    def logprob(self, text: bytes, *, prefix: bytes, eot: bool) -> float:
        symbols = [*text, EOT] if eot else [*text]
        return sum(float(self.next_byte_logprobs(prefix + text[:at])[symbol]) for at, symbol in enumerate(symbols))


def test_the_two_laws_by_hand() -> None:
    """Of aa and ba, which begin with 0.5 and 0.4: the mask does not see that a follows a with 0.1 and b with 0.9.

    The model's law is 0.05 : 0.36; under the mask it is 0.5 : 0.4.
    """
    a, b = b"ab"
    rows = Rows({b"?": {a: 0.5, b: 0.4}, b"?a": {a: 0.1, b: 0.9}, b"?b": {a: 0.9, b: 0.1}})
    found = distance_of(rows, b"?", language(["aa", "ba"]))

    assert found.mass == pytest.approx(0.41)
    assert found.texts[b"aa"] == pytest.approx((0.05 / 0.41, 0.5 / 0.9))
    assert found.variation == pytest.approx(5 / 9 - 5 / 41)
    p, q = 5 / 41, 5 / 9
    assert found.effective == pytest.approx(1 / (p * p / q + (1 - p) ** 2 / (1 - q)))


def test_a_text_that_could_go_on_is_counted_with_its_end() -> None:
    """The text a ends by the model's end of text, and ab by itself."""
    a, b = b"ab"
    rows = Rows({b"": {a: 0.5, b: 0.5}, b"a": {b: 0.3, EOT: 0.2}})
    found = distance_of(rows, b"", language(["a", "ab"]))

    assert found.mass == pytest.approx(0.5 * 0.2 + 0.5 * 0.3)
    assert found.texts[b"a"] == pytest.approx((0.4, 0.4))


@pytest.mark.parametrize("name", [case.id for case in CASES.values() if case.distance and case.id != "two digits"])
def test_the_masked_law_is_that_of_the_draws(name: str) -> None:
    """Its probabilities sum to 1; the draws of a toy are distributed so, and their weights give the model's law."""
    lm, case = toy(), CASES[name]
    prompt, constraint = case.prompt.encode(), case.constraint()
    law = distance_of(lm, prompt, constraint)

    assert sum(q for _, q in law.texts.values()) == pytest.approx(1)
    done = lm.sample(prompt, constraint=constraint, seed=3, lazy=False)
    p, q = law.texts[done.bytes]
    assert done.log_constraint_mass is not None
    assert p * law.mass / q == pytest.approx(np.exp(done.log_constraint_mass))


def test_draws_have_the_masked_law() -> None:
    """400 draws of a toy, text by text, within five standard errors."""
    lm = toy()
    case = CASES["yes, no, maybe"]
    law = dict(masked_law(lm, case.prompt.encode(), case.constraint()))
    done = lm.sample(case.prompt, constraint=case.constraint(), seed=5, n=400)
    assert isinstance(done, list)
    drawn = Counter(each.bytes for each in done)

    for text, (probability, _) in law.items():
        assert abs(drawn[text] / 400 - probability) < 5 * (probability * (1 - probability) / 400) ** 0.5


def test_frequencies_are_compared_text_by_text() -> None:
    """Half of the sum of what each differs by; a text that has no probability counts in full."""
    law = {b"a": 0.5, b"b": 0.5}

    assert variation_of([b"a", b"b"], law) == 0
    assert variation_of([b"a", b"a", b"a", b"b"], law) == pytest.approx(0.25)
    assert variation_of([b"c"], law) == 1


@pytest.mark.parametrize("probs", [[0.5, 0.3, 0.2], [0.98, 0.01, 0.01, 0.0], [1.0]])
def test_chance_is_what_draws_from_the_law_differ_by(probs: list[float]) -> None:
    """The mean over all outcomes of a few draws, by enumeration."""
    draws = 4
    outcomes = itertools.product(range(len(probs)), repeat=draws)
    law = {bytes([i]): p for i, p in enumerate(probs)}
    mean = sum(
        float(np.prod([probs[i] for i in drawn])) * variation_of([bytes([i]) for i in drawn], law) for drawn in outcomes
    )

    assert chance_of(draws, probs) == pytest.approx(mean, abs=1e-12)


def test_draws_come_to_the_law_that_is_theirs() -> None:
    """Exact ones to the model's, the others to that of the mask; many particles lie between."""
    lm, case = toy(3), CASES["degree"]
    prompt, constraint = case.prompt.encode(), constraints.choice(["BSc", "BA", "a", "ab", "abc"])
    found = distance_of(lm, prompt, constraint)
    law = {text: own for text, (own, _) in found.texts.items()}
    drawn = drawn_of(lm, prompt, constraint, law, draws=150, count=12, seed=1)

    assert found.variation > 0.2
    assert drawn.exact < 3 * drawn.chance < found.variation
    assert abs(drawn.step - found.variation) < 3 * drawn.chance
    assert drawn.exact <= drawn.particles < drawn.step


def test_too_many_texts_are_refused() -> None:
    """Where the thousandth and one is met, and not when all are listed."""

    class Uniform(Rows):
        def next_byte_logprobs(self, prefix: bytes) -> np.ndarray:
            return np.full(SYMBOLS, -np.log(SYMBOLS))

    assert len(distance_of(Uniform({}), b"", constraints.regex("[0-9]{3}")).texts) == 1000
    with pytest.raises(DataError, match="more than 1000"):
        distance_of(Uniform({}), b"", constraints.regex("[0-9]{3,40}"))


# ---- lines and tables


class Failing(TableLM):
    """A table that is interrupted when so many calls were made."""

    calls = 10**9

    def next_token_logprobs(self, sequences: Any) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().next_token_logprobs(sequences)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Failing:
    """A toy in the place of every model, and a few cases in that of all."""
    made = Failing(default_tokenizer(), order=2, temperature=2.0, seed=1)
    monkeypatch.setattr(ByteLM, "from_pretrained", lambda name, **options: ByteLM(made))
    chosen = [CASES[name] for name in ("function call", "ipv4", "yes, no, maybe", "capital")]
    monkeypatch.setattr(evaluation, "read_cases", lambda: chosen)
    monkeypatch.chdir(tmp_path)
    return made


DISTANCE: Final = ["--distance", "--texts", "5", "--particles", "2"]
ARGUMENTS: Final = ["--draws", "2", "--bytes", "60", *DISTANCE, "--peers", "llguidance"]


def test_each_completion_is_a_line(engine: Failing, capsys: pytest.CaptureFixture[str]) -> None:
    """Greedy once, the two others twice, for each of four cases; the figures are those of the lines; the file is read."""
    assert evaluation.main([*ARGUMENTS, "--out", "run.jsonl", "--json", "--plot", "plot.png"]) == 0
    summary = json.loads(capsys.readouterr().out)
    lines = read_records(Path("run.jsonl"))[1]
    draws = [line for line in lines if line["kind"] == "draw"]

    assert Counter(line["kind"] for line in lines) == {"draw": 4 * 5, "peer": 4 * 2, "distance": 2}
    for line in draws:
        case = CASES[line["case"]]
        assert line["valid"] is (None if line["finish"] == "length" else True)
        assert line["finish"] != "length" or line["bytes"] == 60
        assert line["valid"] is None or case.valid(line["text"])
        assert line["free"]["bytes"] <= line["bytes"]
    found = summary["kinds"]["all"]["T=1"]
    own = [line for line in draws if line["setting"] == "T=1"]
    pairs = [line for line in own if line["free"]["bytes"] == line["bytes"]]
    assert found["completions"] == len(own) == 8
    assert found["finished"] == found["valid"] == sum(line["finish"] != "length" for line in own)
    assert 0 < found["pairs"] == len(pairs)
    calls = sum(line["calls"] for line in pairs)
    assert found["calls_per_byte"] == pytest.approx(calls / sum(line["bytes"] for line in pairs))
    assert found["calls_against_free"]["mean"] == pytest.approx(calls / sum(line["free"]["calls"] for line in pairs))
    assert summary["peers"]["llguidance, T=1"]["cases"] == summary["peers"]["llguidance, greedy"]["cases"] == 4
    for line in (*draws, *(line["free"] for line in draws)):
        assert 0 < line["tokens"] <= line["bytes"]
    assert {*summary["distances"]} == {"yes, no, maybe", "capital"}
    for found in summary["distances"].values():
        assert (found["drawn"]["draws"], found["drawn"]["count"]) == (5, 2)
    assert Path("plot.png").stat().st_size > 1000


def test_the_tables(engine: Failing, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file that is read again; no line is too long for the pages of docs/ but the command."""
    arguments = [*ARGUMENTS, "--settings", "greedy", "--out", "run.jsonl"]
    evaluation.main(arguments)
    capsys.readouterr()

    for by, row in (("kind", "all"), ("case", "ipv4")):
        assert evaluation.main(["--read", "run.jsonl", "--by", by]) == 0
        *shown, command = capsys.readouterr().out.rstrip().splitlines()
        assert max(map(len, shown)) <= 120
        assert any(line.split()[:2] == [row, "greedy"] for line in shown)
        assert command == f"python -m evals.constraints {' '.join(arguments)}"


def test_a_stopped_run_goes_on(engine: Failing, capsys: pytest.CaptureFixture[str]) -> None:
    """With --resume, and nothing is done twice; the lines are those of a run that was not stopped."""
    arguments = ["--draws", "1", "--bytes", "30", "--out"]
    evaluation.main([*arguments, "whole.jsonl"])
    engine.calls = 100
    assert evaluation.main([*arguments, "run.jsonl"]) == 130
    some = read_records(Path("run.jsonl"))[1]
    engine.calls = 10**9
    assert evaluation.main([*arguments, "run.jsonl", "--resume"]) == 0

    def told(line: dict[str, Any]) -> Any:
        free = {name: value for name, value in line.get("free", {}).items() if name != "seconds"}
        return {**line, "seconds": 0, "free": free}

    lines, whole = (read_records(Path(name))[1] for name in ("run.jsonl", "whole.jsonl"))
    assert 0 < len(some) < len(whole)
    assert lines[: len(some)] == some
    assert [told(line) for line in lines] == [told(line) for line in whole]


def test_what_fails_is_told_and_run_again(
    engine: Failing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other cases are run; status 1; with --resume it is tried again, and no longer counts as failed."""
    made = Case.constraint

    def fails(case: Case) -> Any:
        if case.id == "ipv4":
            raise ConstraintError("told to fail")
        return made(case)

    arguments = ["--settings", "greedy", "--bytes", "20", "--out", "run.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr(Case, "constraint", fails)
        assert evaluation.main(arguments) == 1
    assert "failed: ipv4, greedy, draw 0: told to fail" in capsys.readouterr().out
    assert evaluation.main([*arguments, "--resume"]) == 0
    assert Counter(line["kind"] for line in read_records(Path("run.jsonl"))[1]) == {"draw": 4, "failed": 1}


def line_of(case: str, valid: bool | None, calls: int, free: int, size: int = 10) -> dict[str, Any]:
    spent = {"tokens": 5, "calls": calls, "fed": 2 * calls, "seconds": calls / 10}
    beside = {"bytes": free, "tokens": 2, "calls": 4, "fed": 8, "seconds": 0.8}
    about = {"kind": "draw", "case": case, "of": "regex", "setting": "greedy", "draw": 0, "finish": "stop"}
    return {**about, "valid": valid, "bytes": size, **spent, "text": "x", "free": beside}


def test_the_summary_by_hand() -> None:
    """Pairs alone count for the costs; one that is invalid is told; one that was cut is neither valid nor invalid."""
    header = {"command": "c", "settings": {}}
    lines = [line_of("a", True, 2, 10), line_of("b", False, 4, 10), line_of("c", None, 9, 3)]
    summary = of(header, lines)
    found = summary["kinds"]["regex"]["greedy"]

    assert [found[name] for name in ("cases", "completions", "finished", "valid", "pairs")] == [3, 3, 2, 1, 2]
    assert found["calls_per_byte"] == 6 / 20
    assert found["free_calls_per_byte"] == 8 / 20
    assert found["calls_against_free"]["mean"] == 6 / 8
    assert found["calls_per_token"] == 6 / 10
    assert found["free_calls_per_token"] == 8 / 4
    assert found["seconds_against_free"]["mean"] == pytest.approx(0.6 / 1.6)
    assert [line["case"] for line in summary["invalid"]] == ["b"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kinds", "xml"],
        ["--settings", "T=2"],
        ["--settings", "top-p", "--peers", "llguidance"],
        ["--texts", "0"],
        ["--particles", "0"],
        ["--peers", "nobody"],
        ["--draws", "0"],
        ["--bytes", "0"],
        ["--resume"],
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str]) -> None:
    """Before a model is loaded."""
    with pytest.raises(SystemExit):
        evaluation.main(arguments)


# ---- peers


def likeliest_first(lm: ByteLM, case: Case) -> bytes:
    """By definition: of the tokens with which a text can begin, the likeliest after the prompt."""
    vocab = lm.viability.vocab
    (row,) = lm.token_lm.next_token_logprobs([[*lm.prompt(b"").context, *vocab.encode(case.prompt)]])

    def begins(token: bytes | None) -> bool:
        state = case.constraint().state()
        for byte in token or b"":
            if not state.allowed()[byte]:
                return False
            state.advance(bytes([byte]))
        return bool(token)

    best = max((i for i, token in enumerate(vocab.token_bytes) if begins(token)), key=lambda i: float(row[i]))
    return vocab.token_bytes[best] or b""


@pytest.mark.parametrize("tokenizer", [default_tokenizer, sentencepiece_bpe_tokenizer])
@pytest.mark.parametrize("name", ["yes, no, maybe", "capital", "arithmetic", "iso date", "hiragana"])
@pytest.mark.parametrize("program", ["llguidance", "xgrammar"])
def test_a_program_over_tokens(program: str, name: str, tokenizer: Any) -> None:
    """It begins with the likeliest token of those that are allowed, and what it finishes is valid; where it is installed."""
    pytest.importorskip(program)
    lm, case = ByteLM(TableLM(tokenizer(), order=2, temperature=2.0, seed=4)), CASES[name]
    peer = PEERS[program](lm)
    made = peer.made(case)
    written = peer.complete(made, case.prompt, 300, greedy=True, seed=0)

    assert written.bytes.startswith(likeliest_first(lm, case))
    assert written.finish == "length" or case.valid(written.bytes.decode())
    for seed in range(4):
        drawn = peer.complete(made, case.prompt, 300, greedy=False, seed=seed)
        assert drawn.finish == "length" or case.valid(drawn.bytes.decode())
        assert drawn == peer.complete(made, case.prompt, 300, greedy=False, seed=seed)


class Scripted:
    """A matcher that allows given tokens one after the other, each beside another one."""

    def __init__(self, script: list[list[int]], size: int) -> None:
        self.script, self.size, self.taken = script, size, list[int]()

    @property
    def done(self) -> bool:
        return False

    def forced(self) -> list[int]:
        return []

    def allowed(self) -> np.ndarray:
        mask = np.zeros(self.size, np.bool_)
        mask[self.script[len(self.taken)]] = True
        return mask

    def take(self, tokens: Any) -> bool:
        self.taken += tokens
        return True


class ByScript(OverTokens):
    def made(self, case: Case) -> Any:
        if case.kind != "regex":
            raise RefusedError("it has no words for it")
        return [[5, 6], [7], [5, 8], sorted(self._lm.eot_ids)]

    def matcher(self, made: Any) -> Matcher:
        return Scripted(made, self._lm.token_lm.vocab_size)


def test_tokens_are_written_by_masks() -> None:
    """The likeliest that is allowed; a token alone takes no call, and the end of text alone ends the text."""
    engine = Failing(default_tokenizer(), order=2, temperature=2.0, seed=4)
    lm = ByteLM(engine)
    peer, case = ByScript(lm), CASES["iso date"]
    before = engine.calls
    written = peer.complete(peer.made(case), case.prompt, 300, greedy=True, seed=0)

    ids = peer.before(case.prompt)
    for options in ([5, 6], [7], [5, 8]):
        (row,) = lm.token_lm.next_token_logprobs([ids])
        ids.append(max(options, key=lambda i: float(row[i])))
    assert written.bytes == lm.spell(ids[-3:])
    assert written.finish == "stop"
    assert before - engine.calls == 2 + 3
    many = [peer.complete(peer.made(case), case.prompt, 300, greedy=False, seed=seed).bytes for seed in range(200)]
    (row,) = lm.token_lm.next_token_logprobs([ids[:-3]])
    share = np.exp(row[5]) / (np.exp(row[5]) + np.exp(row[6]))
    count = sum(text.startswith(lm.spell([5, 7])) for text in many)
    assert abs(count / 200 - share) < 5 * (share * (1 - share) / 200) ** 0.5


def test_what_a_program_has_no_words_for_is_told(
    engine: Failing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a line of its own that counts in no figure; one that draws alone is not asked for greedy texts."""

    class Drawing(ByScript):
        draws_alone = True

    monkeypatch.setattr(evaluation, "PEERS", {**PEERS, "scripted": ByScript, "drawing": Drawing})
    arguments = ["--settings", "greedy,T=1", "--draws", "1", "--bytes", "30", "--peers", "scripted,drawing"]
    evaluation.main([*arguments, "--out", "run.jsonl", "--json"])
    peers = json.loads(capsys.readouterr().out)["peers"]
    refused = [line for line in read_records(Path("run.jsonl"))[1] if line.get("finish") == "refused"]

    assert {*peers} == {
        f"{who}{name}"
        for name in ("scripted, greedy", "scripted, T=1", "drawing, T=1")
        for who in ("", "bytelm beside ")
    }
    assert {(each["cases"], each["refused"]) for name, each in peers.items() if "beside" not in name} == {(2, 2)}
    assert {each["cases"] for each in peers.values()} == {2}
    assert {line["why"] for line in refused} == {"it has no words for it"}


@pytest.mark.slow
def test_the_demo_model_at_small_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """Name, age and city: at most 12 calls for the 40 bytes, and fewer than without the constraint; a date beside it."""
    assert evaluation.main(["--limit", "2", "--draws", "1", "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    person = cases["person"]["greedy"]

    assert person["finished"] == person["valid"] == 1
    assert person["bytes"] == 40
    assert person["calls_per_byte"] <= 12 / 40
    assert person["calls_against_free"]["mean"] < 1
    assert all(each["valid"] == each["finished"] for case in cases.values() for each in case.values())
