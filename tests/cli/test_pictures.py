"""The pictures of `bytelm score`, `explain` and `ensemble`: their numbers, their files, and what is refused."""

from __future__ import annotations

import contextlib
import heapq
import html
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, TableLM, constraints
from bytelm.cli import options
from bytelm.cli.pictures import LEAST, STEPS, strip_of, walk_of
from bytelm.cli.sweep import TOLERANCE, Spellings, sweep_of
from bytelm.cover.cover import Cover
from bytelm.cover.prefix import bos_ids_of
from bytelm.healing import Healing, completer_of
from bytelm.inference.cover_list import BRANCHES, CoverList
from bytelm.inference.scheduler import Scheduler
from bytelm.pictures.values import Strip, shown_text
from tests.cli.test_main import Run, runner
from tests.support.tiny import byte_bpe_tokenizer, sentencepiece_bpe_tokenizer

TEXT = "the naïve fox\n returns".encode()
SWEPT = "the naï\n  f".encode()


class Silent(TableLM):
    """A model that may not be run."""

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        pytest.fail("the model was run")


@pytest.fixture(scope="module")
def lms() -> dict[str, ByteLM]:
    """Two models with vocabularies of their own, and one that may not be run."""
    return {
        "demo": ByteLM(TableLM(byte_bpe_tokenizer(bos="<|bos|>"), seed=3, order=3)),
        "other": ByteLM(TableLM(sentencepiece_bpe_tokenizer(prepend=True), seed=4, order=2)),
        "silent": ByteLM(Silent(byte_bpe_tokenizer())),
    }


@pytest.fixture(params=["demo", "other"])
def lm(request: pytest.FixtureRequest, lms: dict[str, ByteLM]) -> ByteLM:
    return lms[request.param]


@pytest.fixture
def run(
    lms: dict[str, ByteLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Run ``bytelm`` in an empty folder."""
    monkeypatch.setattr(options, "load", lambda model, *_: lms[model])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BYTELM_MODEL", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    return runner(monkeypatch, capsysbinary)


def sections(page: str) -> list[dict[str, Any]]:
    """The data of a document."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    told: list[dict[str, Any]] = json.loads(found[1])
    return told


def unframed(frame: str) -> str:
    """The document in a frame."""
    found = re.search(r'srcdoc="(.*?)" sandbox', frame, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


# ---- what a strip says


@pytest.mark.parametrize("prefix", [b"", b"once upon the"])
def test_a_strip_is_what_the_model_says(lm: ByteLM, prefix: bytes) -> None:
    """At each byte its exact log-probability, the likeliest symbols of the row, its leak and its entropy."""
    strip = strip_of(lm, TEXT, prefix=prefix)

    assert strip.text == TEXT
    for at, place in enumerate(strip.places):
        row = lm.next_byte_logprobs(prefix + TEXT[:at])
        assert place.logprob == pytest.approx(row[TEXT[at]], abs=1e-9)
        assert dict(place.top) == pytest.approx({i: row[i] for i in np.argsort(-row, kind="stable")[:6].tolist()})
        assert place.leak == pytest.approx(max(0.0, 1 - np.exp(row).sum()), abs=1e-9)
        probs = np.exp(row) / np.exp(row).sum()
        expected = -math.fsum(p * math.log2(p) for p in probs.tolist() if p > 0)
        assert place.entropy_bits == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("prefix", [b"", b"once upon the"])
def test_the_tokens_of_a_strip_are_the_tokenizers(lm: ByteLM, prefix: bytes) -> None:
    """Those of prefix and text together that reach into the text, each given all before it, side by side."""
    strip = strip_of(lm, TEXT, prefix=prefix)
    ids = lm.tokenizer.encode((prefix + TEXT).decode(), add_special_tokens=False)
    context = bos_ids_of(lm.viability.vocab)
    ends = np.cumsum([len(lm.spell([token])) for token in ids]) - len(lm.spell(ids)) + len(TEXT)

    assert strip.tokens is not None
    reaching = [k for k, end in enumerate(ends.tolist()) if end > 0]
    assert [(each.start, each.end) for each in strip.tokens] == [
        (max(int(ends[k - 1]), 0) if k else 0, int(ends[k])) for k in reaching
    ]
    rows = lm.token_lm.next_token_logprobs([(*context, *ids[:k]) for k in reaching])
    expected = [float(row[ids[k]]) for row, k in zip(rows, reaching, strict=True)]
    assert [each.logprob for each in strip.tokens] == pytest.approx(expected)


def test_half_a_character_has_no_tokens(lm: ByteLM) -> None:
    """A text that ends inside a character has bytes alone: no sequence of tokens spells it."""
    strip = strip_of(lm, "the naï".encode()[:-1])

    assert strip.tokens is None
    assert len(strip.places) == 7


# ---- the covers


def test_each_step_of_a_walk_is_the_cover_there(lm: ByteLM) -> None:
    """The likeliest sequences with their shares, how many more there are, and the tokens that all begin with, hidden."""
    walk = walk_of(lm, TEXT)

    assert (walk.text, len(walk.steps)) == (TEXT, len(TEXT) + 1)
    for at, step in enumerate(walk.steps):
        cover, total = lm.cover(TEXT[:at]), lm.logprob(TEXT[:at])
        assert step.logprob == pytest.approx(total, abs=1e-9)
        shares = [math.exp(item.logprob - total) for item in cover[:BRANCHES]]
        assert [branch.share for branch in step.live] == pytest.approx(shares, abs=1e-9)
        assert step.left_out == len(cover) - len(step.live)
        first = step.live[0]
        assert tuple(first.token_ids) == cover[0].token_ids[step.hidden :]
        spelled = lm.spell(cover[0].token_ids).removeprefix(lm.viability.vocab.dummy_prefix)
        shown = "".join(map(str, first.tokens))
        if at and spelled[:at].decode(errors="ignore").encode() == spelled[:at]:  # no character is cut
            assert shown[len(shown) - first.beyond :] == shown_text(spelled[at:])


def test_dead_branches_are_what_the_byte_ruled_out_and_what_no_text_has(lm: ByteLM) -> None:
    """Each has mass, and none of them is in the cover."""
    walk = walk_of(lm, TEXT)
    kinds: set[str] = set()
    for at, step in enumerate(walk.steps):
        cover = {item.token_ids[step.hidden :] for item in lm.cover(TEXT[:at])}
        for branch in step.dead:
            assert branch.why is not None
            assert branch.share >= LEAST
            assert tuple(branch.token_ids) not in cover
            kinds.add("ruled out" if "ruled out by" in branch.why else "no text")
            assert ("no text" in branch.why) == (branch.token_ids[-1] == -1)

    assert kinds == {"ruled out", "no text"}


def test_a_long_text_is_walked_along_its_end(lms: dict[str, ByteLM]) -> None:
    text = b"the fox " * 40
    walk = walk_of(lms["demo"], text)

    assert walk.text == text[-STEPS:]
    assert walk.steps[-1].logprob == pytest.approx(lms["demo"].logprob(text))


# ---- the sweep


def test_by_bytes_a_word_costs_the_same_at_each_cursor(lm: ByteLM) -> None:
    """By bytes all cursors of a word have its own log-probability; the rest is what stands behind the cursor."""
    sweep = sweep_of(lm, SWEPT)
    exact = sweep.methods[0]

    assert sweep.text == SWEPT
    for at, word in enumerate(["the"] * 3 + [" naï"] * 5 + ["\n  f"] * 4):
        start = SWEPT.index(word.encode())
        assert sweep.words[at] == word
        assert exact.word[at] == pytest.approx(lm.logprob(word, prefix=SWEPT[:start]), abs=1e-9)
        rest = SWEPT[at : start + len(word.encode())]
        assert exact.rest[at] == pytest.approx(lm.logprob(rest, prefix=SWEPT[:at]), abs=1e-9)


def test_by_tokens_the_rest_is_the_sum_over_its_spellings(lm: ByteLM) -> None:
    """What is drawn behind the prompt's own tokens, summed over every token sequence that begins with the rest."""
    sweep = sweep_of(lm, SWEPT)
    vocab, completer = lm.viability.vocab, completer_of(lm)
    drawable = [i for i in completer.prefix_index.order.tolist() if i not in lm.eot_ids] + sorted(lm.eot_ids)

    @cache
    def row(ids: tuple[int, ...]) -> dict[int, float]:
        (logprobs,) = lm.token_lm.next_token_logprobs([(*completer.context, *ids)])
        probs = np.exp(np.asarray(logprobs, np.float64)[drawable])
        return dict(zip(drawable, (probs / probs.sum()).tolist(), strict=True))

    def mass(ids: tuple[int, ...], rest: bytes) -> float:
        total = 0.0
        for token, prob in row(ids).items():
            spelled = b"" if token in lm.eot_ids else vocab.token_bytes[token] or b""
            if not ids:
                spelled = spelled.removeprefix(vocab.dummy_prefix)
            if spelled and spelled.startswith(rest):
                total += prob
            elif spelled and rest.startswith(spelled):
                total += prob * mass((*ids, token), rest[len(spelled) :])
        return total

    for at in (0, 1, 3, 5, 6, 9, 10):
        word = sweep.words[at].encode()
        rest = SWEPT[at : SWEPT.index(word) + len(word)]
        expected = mass(vocab.encode(SWEPT[:at].decode()), rest)
        found = sweep.methods[1].rest[at]
        assert found is not None
        assert expected * (1 - TOLERANCE) - 1e-12 <= math.exp(found) <= expected * (1 + 1e-9)
    inside = SWEPT.index(b"\xaf")
    assert sweep.methods[1].rest[inside] is None
    assert sweep.methods[2].rest[inside] is not None


@pytest.mark.parametrize("healing", ["none", "one", "many"])
def test_one_byte_is_the_next_byte(lm: ByteLM, healing: Healing) -> None:
    """Of a rest of one byte it is the distribution that the methods' own `next_byte_logprobs` has."""
    vocab = lm.viability.vocab
    spellings = Spellings(lm.token_lm, vocab=vocab, eot_ids=lm.eot_ids, context=bos_ids_of(vocab))
    for prompt in (b"", b"the retur", b"a  "):
        row = completer_of(lm).next_byte_logprobs(prompt, healing=healing)
        for byte in b"ne (":
            step = spellings.begins_with(bytes([byte]), prompt, healing=healing)
            found = Scheduler(lm.token_lm).run_one(step).result
            assert found is not None
            assert math.log1p(-TOLERANCE) - 1e-9 <= found - row[byte] <= 1e-9


def test_no_row_is_asked_for_twice_and_few_calls_are_made() -> None:
    """All cursors and methods share their rows, in about as many calls as the longest chain of tokens has tokens."""
    asked: list[list[tuple[int, ...]]] = []

    class Counting(TableLM):
        def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
            asked.append([tuple(sequence) for sequence in sequences])
            return super().next_token_logprobs(sequences)

    lm = ByteLM(Counting(byte_bpe_tokenizer(bos="<|bos|>"), seed=3, order=3))
    lm.byte_logprobs(SWEPT)
    exact = len(asked)
    sweep_of(lm, SWEPT)
    calls = asked[2 * exact :]  # it asks for the same first
    rows = [sequence for call in calls for sequence in call]

    assert calls
    assert len(rows) == len(set(rows))
    assert len(calls) <= 1 + max(map(len, rows)) - min(map(len, rows))


@pytest.mark.parametrize(("prompt", "text"), [(b"the retur", b"ns the"), (b"a fox ", b"then\n"), (b"", b"import")])
def test_no_spelling_is_followed_that_need_not_be(lm: ByteLM, prompt: bytes, text: bytes) -> None:
    """As many as when one is followed at a time, the likeliest that is left, until the rest is below the tolerance."""
    vocab = lm.viability.vocab
    spellings = Spellings(lm.token_lm, vocab=vocab, eot_ids=lm.eot_ids, context=bos_ids_of(vocab))
    step, followed, rounds = spellings.begins_with(text, prompt, healing="none"), set(), 0
    request = next(step)
    with contextlib.suppress(StopIteration):
        while True:
            followed |= set(request.sequences)
            rounds += 1
            request = step.send(list(lm.token_lm.next_token_logprobs(request.sequences)))

    completer = completer_of(lm)
    kept = vocab.encode(prompt.decode())
    drawable = [i for i in completer.prefix_index.order.tolist() if i not in lm.eot_ids] + sorted(lm.eot_ids)
    ahead: list[tuple[float, tuple[int, ...]]] = [(-1.0, ())]
    found, alone = 0.0, set()
    while -sum(minus for minus, _ in ahead) > TOLERANCE * found:
        minus, drawn = heapq.heappop(ahead)
        alone.add((*completer.context, *kept, *drawn))
        (row,) = lm.token_lm.next_token_logprobs([(*completer.context, *kept, *drawn)])
        probs = np.exp(np.asarray(row, np.float64)[drawable])
        for token, prob in zip(drawable, (probs / probs.sum()).tolist(), strict=True):
            spelled = b"" if token in lm.eot_ids else lm.spell([*drawn, token])
            spelled = spelled if kept else spelled.removeprefix(vocab.dummy_prefix)
            if spelled and spelled.startswith(text):
                found -= minus * prob
            elif token not in lm.eot_ids and text.startswith(spelled):
                heapq.heappush(ahead, (minus * prob, (*drawn, token)))

    assert followed == alone
    assert rounds < len(alone)


# ---- the commands


def test_score_draws_each_text_by_each_model(run: Run, lms: dict[str, ByteLM], tmp_path: Path) -> None:
    """A section for each pair, with --by one of the units too; the table is printed as without."""
    (tmp_path / "a.txt").write_bytes(b"the fox")
    (tmp_path / "b.txt").write_bytes(b"a dog")
    plain = run("score", "a.txt", "b.txt", "-m", "demo", "-m", "other", "--by", "word")

    done = run("score", "a.txt", "b.txt", "-m", "demo", "-m", "other", "--by", "word", "--html", "page.html")

    assert (done.code, done.out, done.err) == (0, plain.out, plain.err)
    found = sections((tmp_path / "page.html").read_text())
    names = [f"{file}.txt, {model}" for file in "ab" for model in ("demo", "other")]
    assert [each["heading"] for each in found] == [each for name in names for each in (name, f"{name}, by word")]
    assert [each["kind"] for each in found] == ["surprisal", "units"] * 4
    strip = strip_of(lms["other"], b"the fox")
    assert found[2]["data"] == json.loads(json.dumps(strip.data()))
    assert [each["text"] for each in found[1]["data"]["units"]] == ["the ", "fox"]


def test_standard_output_holds_the_document_alone(run: Run) -> None:
    for command in (["score", "the fox"], ["explain", "the fox"]):
        done = run(*command, "--html", "-")
        assert done.out.startswith("<!doctype html>")
        assert done.out.endswith("</html>\n")


def test_explain_draws_three_pictures(run: Run, lms: dict[str, ByteLM], tmp_path: Path) -> None:
    plain = run("explain", "the fo")
    done = run("explain", "the fo", "--html", "page.html")

    assert (done.code, done.out) == (0, plain.out)
    found = sections((tmp_path / "page.html").read_text())
    assert [each["kind"] for each in found] == ["cover", "surprisal", "sweep"]
    drawn, alone = (each["methods"] for each in (found[2]["data"], sweep_of(lms["demo"], b"the fo").data()))
    for mine, theirs in zip(drawn, alone, strict=True):
        assert mine["word"] == pytest.approx(theirs["word"], abs=2e-5)
    assert run("explain", "", "--html", "empty.html").code == 0
    assert [each["kind"] for each in sections((tmp_path / "empty.html").read_text())] == ["cover"]


@pytest.mark.parametrize("more", [[], ["--show-members"]])
def test_ensemble_draws_who_drove_what(more: list[str], run: Run, lms: dict[str, ByteLM], tmp_path: Path) -> None:
    """The text that is printed is the one that is drawn, with the weights, and with what each wrote alone."""
    args = ["-m", "demo", "-m", "other", "--combine", "bayes", "--seed", "1", "--max-bytes", "9", "the "]
    plain = run("ensemble", *args, *more)

    done = run("ensemble", *args, *more, "--html", "page.html")

    assert (done.code, done.out) == (0, plain.out)
    (found,) = sections((tmp_path / "page.html").read_text())
    lm = Ensemble([lms["demo"], lms["other"]], combine="bayes")
    written = lm.sample("the ", seed=1, max_bytes=9).bytes
    told = lm.explain(written, prefix="the ")
    data = found["data"]
    assert (data["members"], data["combine"]) == (["demo", "other"], "bayes")
    assert bytes(each["byte"] for each in data["bytes"]) == written
    assert [each["driver"] for each in data["bytes"]] == list(told.drivers)
    weights = [[one["weight"] for one in each["members"]] for each in data["bytes"]]
    assert weights == pytest.approx(told.weights.T, abs=1e-5)
    assert ("demo alone wrote" in found["note"]) == bool(more)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["score", "--html", "none/a.html"], 1, "cannot write none/a.html: there is no folder none"),
        (["score", "--plot", "none/a.png"], 1, "there is no folder none"),
        (["explain", "--html", "."], 1, "cannot write .: it is a folder"),
        (["ensemble", "--html", "none/a.html"], 1, "there is no folder none"),
        (["score", "--html", "-", "--json"], 2, "standard output takes one of --html and --json"),
        (["explain", "--html", "-", "--json"], 2, "standard output takes one of --html and --json"),
        (["score", "--html", "-", "--csv", "-"], 2, "standard output takes one of --csv and --html"),
        (["score", "--html", "a.csv", "--csv", "a.csv"], 2, "--csv and --html name one file"),
        (["score", "--plot", "a.bmp"], 1, "--plot writes a file that ends in png, svg, pdf"),
        (["score", "--plot", "-"], 1, "--plot writes a file that ends in png, svg, pdf"),
        (["ensemble", "--html", "a.html", "-n", "2"], 2, "--html explains one completion"),
        (["ensemble", "--html", "a.html", "--stream"], 2, "leave out --stream"),
        (["ensemble", "--html", "a.html", "--likeliest"], 2, "leave out --stream and --likeliest"),
    ],
    ids=range(13),
)
def test_what_cannot_be_drawn_is_said_before_a_model_runs(run: Run, args: list[str], code: int, message: str) -> None:
    done = run(*args, "-m", "silent", "the fox")

    assert (done.code, done.out) == (code, "")
    assert message in re.sub(r"\s+", " ", done.err)


def test_a_picture_is_no_file_that_is_scored(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"the fox")
    done = run("score", "a.html", "--html", "a.html", "-m", "silent")

    assert (done.code, "is one of the files that are scored" in done.err) == (2, True)


# ---- plots


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_score_plots_texts_and_models(kind: str, run: Run, tmp_path: Path) -> None:
    """A file of the kind that its name says, drawn from what the table has; the table is printed as without."""
    (tmp_path / "a.txt").write_bytes(b"the fox costs $5_0^2")
    (tmp_path / "b.txt").write_bytes(b"a dog " * 25)
    args = ["score", "a.txt", "b.txt", "-m", "demo", "-m", "other"]
    plain = run(*args)

    done = run(*args, "--plot", f"plot.{kind}")

    assert (done.code, done.out) == (0, plain.out)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert (tmp_path / f"plot.{kind}").read_bytes().startswith(start)


def test_without_matplotlib_a_plot_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("score", "--plot", "a.png", "-m", "silent", "the fox")

    assert (done.code, done.out) == (1, "")
    assert "pip install matplotlib" in done.err


# ---- values in a notebook, and their repr


def test_values_draw_themselves(lms: dict[str, ByteLM], tmp_path: Path) -> None:
    """A score and an attribution are frames in a notebook; a score's document is also written."""
    score = lms["demo"].score(TEXT, by="word")
    page = score.to_html(tmp_path / "page.html")

    assert (tmp_path / "page.html").read_text() == page
    (section,) = sections(page)
    assert [each["text"] for each in section["data"]["units"]] == [row.text for row in score]
    told = Ensemble([lms["demo"], lms["other"]]).explain("the fox")
    for value in (score, told, lms["demo"].sample("the", max_bytes=9, seed=0)):
        assert value._repr_html_().startswith("<iframe srcdoc=")
    ended = lms["demo"].score("the", by="byte", eot=True).to_html()
    assert [each["end"] for each in sections(ended)[0]["data"]["units"]] == [False] * 3 + [True]


def test_a_cover_draws_itself_as_explain_does(lm: ByteLM) -> None:
    """The tree at the cursor is the last step of the walk, but for what is dead; the list is all of the cover."""
    cover = lm.cover(TEXT)
    assert isinstance(cover, CoverList)
    (section,) = sections(unframed(cover._repr_html_()))
    last = walk_of(lm, TEXT).data()["steps"][-1]

    assert section["kind"] == "members"
    assert section["data"]["text"] == TEXT.decode()
    for name in ("token_ids", "tokens", "beyond"):
        own, theirs = ([each[name] for each in items] for items in (section["data"]["items"], last["items"]))
        cut = section["data"]["hidden"] - last["hidden"]
        assert own == (theirs if name == "beyond" else [each[cut:] for each in theirs])
    assert section["data"]["logprob"] == pytest.approx(last["logprob"], abs=2e-5)
    assert section["data"]["left_out"] == len(cover) - len(last["items"]) == last["left_out"]
    assert sum(math.exp(item.logprob) for item in cover) == pytest.approx(math.exp(lm.logprob(TEXT)), rel=1e-9)
    assert cover == sorted(cover, key=lambda item: (-item.logprob, item.token_ids))


def test_a_completion_draws_itself_with_its_facts(lms: dict[str, ByteLM]) -> None:
    done = lms["demo"].sample("the", max_bytes=9, seed=0)
    page = done._repr_html_()
    (section,) = sections(unframed(page))

    assert section["data"]["text"] == done.text
    facts = " · ".join(section["data"]["facts"])
    assert facts.startswith(f"{len(done.bytes)} bytes · ")
    assert f"log-probability {done.logprob:.4f}" in facts
    assert f"{done.usage.calls} model call" in facts
    heights = [
        int(re.search(r"100%; height: (\d+)px", replace(done, text=text)._repr_html_())[1])  # type: ignore[index]
        for text in ("a", "a\n" * 5, "a" * 700, "a\n" * 500)
    ]
    assert heights[0] < heights[1] < heights[2] < heights[3] == 420


def test_a_repr_is_short(lms: dict[str, ByteLM]) -> None:
    """Of a long text too: what it is, how much, and its number."""
    lm = lms["demo"]
    text = "the fox returns " * 30
    score = lm.score(text, by="word")
    told = Ensemble([lm, lm]).explain("the fox " * 20)
    written = lm.sample("the", max_bytes=200, seed=0)
    (item, *_) = lm.cover(text)

    many = lm.sample("the", max_bytes=4, seed=0, particles=30, constraint=constraints.regex("[a-z]*")).particles
    several, covered = lm.cover("the fox t"), Cover.empty(lm.viability).advance(text.encode())
    assert repr(several).startswith(f"[{several[0]!r}, ")
    assert repr(several).endswith(f", … {len(several) - 2} more]")
    assert repr(lm.cover("")) == f"[{lm.cover('')[0]!r}]"

    for value in (score, lm.score(text, by=[text])[0], told, written, item, many, several, covered):
        assert len(repr(value)) < 200, repr(value)
    assert repr(score).endswith(f", by='word', 90 rows, {score.surprisal_bits:.4f} bits)")
    assert repr(score).startswith("Score('the fox ")
    assert f"{len(written.bytes)} bytes" in repr(written)
    assert f"{len(item.token_ids)} tokens" in repr(item)


def test_a_strip_is_plain_data(lms: dict[str, ByteLM]) -> None:
    """What the browser is given is JSON as it is: no number of numpy's."""
    strip = strip_of(lms["demo"], TEXT)

    assert isinstance(strip, Strip)
    json.dumps(strip.data(), allow_nan=False)
