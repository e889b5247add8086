"""Surprisal beside minicons: its rules by hand, differences that add up, a wrong number that is found, the other side."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.inference.units import WordSpace
from evals.surprisal import __main__ as evaluation
from evals.surprisal.__main__ import PAIRS, PeerError, compared, sentences, summary
from evals.surprisal.differences import ACROSS, BEHIND, COUNTED, FRONT, LAST, LONGER, WHITE, Found
from evals.surprisal.tokens import SETTINGS, Setting, Tokens, predicted, spans
from tests.support.tiny import byte_bpe_tokenizer

SUMS, CORRECTED, MARKS, NO_START = SETTINGS
TEXTS: Final = ("The fox's dog sleeps.", 'a "quick," fox:  the dog, they', "naïve 42 words'")
RESULT: Final = Path(__file__).parents[2] / "evals" / "results" / "surprisal-demo.json"


@cache
def toy(seed: int = 1) -> ByteLM:
    return ByteLM(TableLM(byte_bpe_tokenizer(), order=2, temperature=1.5, seed=seed))


def by_its_rules(lm: ByteLM, text: str, setting: Setting) -> list[list[Any]]:
    """What minicons would say."""
    tokens = Tokens.of(lm, text, start=setting.start)
    given = spans(lm, text, setting)
    return [[text[a:b], predicted(tokens, s, setting)] for (a, b), s in zip(setting.words(text), given, strict=True)]


def token_scores(lm: ByteLM, text: str, *, start: bool, corrected: bool) -> list[float]:
    """The numbers of the tokens one by one, as minicons' masks have them."""
    ids = list(lm.viability.vocab.encode(text))
    spelled = lm.viability.vocab.token_bytes
    space = [i for i, data in enumerate(spelled) if data and data[:1] == b" "]
    front = list(lm.prompt(lm.start_prefix()).context) if start else []
    whole, first = front + ids, 1
    (rows,) = (lm.token_lm.next_token_logprobs([whole[:k] for k in range(1, len(whole) + 1)]),)
    mass = [math.log(math.fsum(np.exp(np.asarray(row)[space].astype(float)))) for row in rows]
    scored = list(range(first, len(whole)))
    forward = [k == len(whole) - 1 or whole[k + 1] in space for k in scored]
    current = [False, *forward[:-1]]
    return [
        float(rows[k - 1][whole[k]]) + corrected * (f * mass[k] - c * mass[k - 1])
        for k, f, c in zip(scored, forward, current, strict=True)
    ]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_word_has_the_sum_of_the_tokens_that_it_is_given(text: str, setting: Setting) -> None:
    """Token by token with the masks of the correction, cut by counts of tokens: the numbers of `predicted`."""
    lm = toy()
    scores = token_scores(lm, text, start=setting.start, corrected=setting.corrected)
    at, wanted = 0, []
    for number, (start, end) in enumerate(setting.words(text)):
        size = len(lm.viability.vocab.encode(" " * (number > 0) + text[start:end]))
        wanted.append(math.fsum(scores[at : at + size]))
        at += size

    assert [value for _, value in by_its_rules(lm, text, setting)] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("setting", "space"), PAIRS, ids=lambda each: getattr(each, "name", each))
@pytest.mark.parametrize("seed", [1, 2])
def test_amounts_lead_from_their_number_to_ours(setting: Setting, space: Any, seed: int) -> None:
    lm = toy(seed)
    for text in TEXTS:
        (words,) = compared(lm, text, setting, [space], by_its_rules(lm, text, setting))

        assert [word.word for word in words if not word.explained] == []
        for word in words:
            assert word.theirs + sum(word.amounts.values()) == pytest.approx(word.ours, abs=9e-4)


def test_our_numbers_are_those_of_score() -> None:
    lm, text = toy(), TEXTS[1]
    prefix = lm.start_prefix()
    spaces: tuple[WordSpace, ...] = ("after", "before", "none")
    for space, rows in zip(
        spaces, compared(lm, text, CORRECTED, spaces, by_its_rules(lm, text, CORRECTED)), strict=True
    ):
        score = lm.score(text, by="word", space=space, prefix=prefix)
        assert [word.ours for word in rows] == [row.logprob for row in score if row.number is not None]


def test_a_wrong_number_is_unexplained() -> None:
    lm, text = toy(), TEXTS[0]
    said = by_its_rules(lm, text, SUMS)
    said[2][1] += 3e-4
    (words,) = compared(lm, text, SUMS, ["before"], said)

    assert [word.explained for word in words] == [True, True, False, True]
    assert summary(words)["unexplained"] == 1


def test_a_wrong_number_is_unexplained_where_other_tokens_were_given_too() -> None:
    lm, text = toy(), "The dog  sleeps"
    said = by_its_rules(lm, text, SUMS)
    said[2][1] += 3e-4
    (words,) = compared(lm, text, SUMS, ["after"], said)

    assert [*words[2].amounts] == [COUNTED]
    assert [word.explained for word in words] == [True, True, False]


def test_other_words_are_refused() -> None:
    lm = toy()
    with pytest.raises(PeerError, match="other words"):
        list(compared(lm, "a fox", SUMS, ["before"], [["a", -1.0]]))


def causes(words: list[Found]) -> dict[str, list[str]]:
    return {cause: [w.word for w in words if cause in w.amounts] for cause in {c for w in words for c in w.amounts}}


def found(text: str, setting: Setting, space: Any) -> dict[str, list[str]]:
    lm = toy()
    (words,) = compared(lm, text, setting, [space], by_its_rules(lm, text, setting))
    return causes(words)


def test_each_cause_is_named_where_it_is() -> None:
    """Spaces in front and behind, the end of the last word, longer tokens, wide gaps, tokens across, wrong counts."""
    plain = found("The dog th", SUMS, "after")
    assert plain[FRONT] == ["dog", "th"]
    assert plain[BEHIND] == ["The", "dog"]
    assert plain[LONGER] == ["th"]

    corrected = found("The dog th", CORRECTED, "after")
    assert corrected[LAST] == ["th"]
    assert FRONT not in corrected
    assert BEHIND not in corrected
    assert corrected[LONGER] == ["th"]

    wide = found("The dog  sleeps", CORRECTED, "after")
    assert wide[WHITE] == ["dog"]
    assert wide[COUNTED] == ["sleeps"]

    marks = found("the fox(n): it", MARKS, "after")
    assert marks[ACROSS] == [")", ":"]

    assert [*found("The dog", NO_START, "after")] == [COUNTED]


def test_the_sentences_are_fifty_and_varied() -> None:
    texts = sentences()
    whole = "\n".join(texts)

    assert len(texts) == len(set(texts)) == 50
    wanted = ["n't", "'s", "1,250", "$4.75", "°", "東京", "…", '"', "(", "?", "!", ";", "é", "  ", "-"]
    assert [part for part in wanted if part not in whole] == []
    assert all(text == text.strip() for text in texts)


# ---- the other environment

STUB: Final = """
class IncrementalLMScorer:
    def __init__(self, folder, device):
        self.folder = folder

    def word_score_tokenized(self, batch, split, *, bow_correction, bos_token):
        (text,) = batch
        return [[(word, -float(len(word)) - bow_correction - 2 * bos_token) for word in split(text)]]
"""


def environment(folder: Path, stub: str) -> str:
    """A Python that has a package called minicons."""
    for name in ("minicons", "torch", "transformers"):
        (folder / f"{name}-0.dist-info").mkdir()
        (folder / f"{name}-0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0\n")
    (folder / "minicons").mkdir()
    (folder / "minicons" / "__init__.py").write_text("")
    (folder / "minicons" / "scorer.py").write_text(stub)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_the_peer_is_asked_in_every_setting(tmp_path: Path) -> None:
    said = evaluation.asked(environment(tmp_path, STUB), Path("/model"), ['it\'s "so" 1'])

    assert said["versions"]["minicons"] == "0.0"
    assert said["sums"] == [[["it's", -6.0], ['"so"', -6.0], ["1", -3.0]]]
    assert said["corrected"] == [[["it's", -7.0], ['"so"', -7.0], ["1", -4.0]]]
    assert [word for word, _ in said["corrected, marks apart"][0]] == ["it's", '"', "so", '"', "1"]
    assert said["sums, no start token"][0][0] == ["it's", -4.0]


def test_a_peer_that_cannot_answer_is_an_error_that_helps(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="cannot run"):
        evaluation.asked(str(tmp_path / "none"), Path("/model"), ["a"])
    with pytest.raises(PeerError, match=r"No module named 'missing'(?s:.*)pip install minicons"):
        evaluation.asked(environment(tmp_path, "import missing"), Path("/model"), ["a"])


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "--against"), (["--against", "python", "--limit", "0"], "--limit"), (["--threads", "0"], "--threads")],
)
def test_wrong_options_end_before_a_model_runs(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluation.main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


# ---- the committed result


def test_the_committed_result_is_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Its counts follow from its rows, nothing is unexplained, and the page has each of its numbers."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    page = (RESULT.parents[2] / "docs" / "surprisal.md").read_text(encoding="utf-8")

    assert result["sentences"] == 50
    assert [(pair["peer"], pair["space"]) for pair in result["pairs"]] == [(s.name, space) for s, space in PAIRS]
    for pair in result["pairs"]:
        each = [Found(word, theirs, ours, True, amounts) for word, theirs, ours, amounts in pair["each"]]
        again = summary([replace(word, explained=True) for word in each])
        assert again["words"] == pair["words"]
        assert again["equal"] == pytest.approx(pair["equal"], abs=1)  # the file has six decimals
        assert {cause: told["words"] for cause, told in again["causes"].items()} == {
            cause: told["words"] for cause, told in pair["causes"].items()
        }
        assert pair["unexplained"] == 0
        row = f"| {pair['peer']} | `{pair['space']}` | {pair['equal']} of {pair['words']} |"
        assert row in page
        for cause, told in pair["causes"].items():
            assert f"{cause}: {told['words']}" in page[page.index(row) :].split("\n")[0]
    assert evaluation.main(["--read", str(RESULT)]) == 0
    assert "unexplained" in capsys.readouterr().out
