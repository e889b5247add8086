"""The Markov demonstration: with the chain's own token probabilities bytes are exact, with a trained model nearly so."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM
from evals.markov import __main__ as markov
from evals.markov.__main__ import all_prompts, drawn_prompts, estimates, largest, trained_model
from evals.markov.chains import Chain, TokenChain, exact_tokens, trained_tokenizer


@cache
def chain(symbols: str = "AB", order: int = 3, seed: int = 0) -> Chain:
    return Chain.drawn(symbols, order, seed=seed)


def exact_rows(symbols: str, order: int, seed: int, *, longest: int) -> list[dict[str, Any]]:
    tokenizer = trained_tokenizer(chain(symbols, order, seed), seed=seed)
    lm = ByteLM(exact_tokens(chain(symbols, order, seed), tokenizer))
    return estimates(lm, chain(symbols, order, seed), all_prompts(chain(symbols, order, seed), longest=longest))


def test_the_texts_of_a_length_are_a_distribution() -> None:
    """The probabilities of all texts of six symbols sum to 1, and so do those that go on in two ways from each of five."""
    texts = {
        n: {"".join(t): chain().probability("".join(t)) for t in itertools.product("AB", repeat=n)} for n in (5, 6)
    }

    assert sum(texts[6].values()) == pytest.approx(1)
    assert all(texts[6][t + "A"] + texts[6][t + "B"] == pytest.approx(p) for t, p in texts[5].items())
    # What begins a text is what stands anywhere in one.
    assert all(texts[6]["A" + t] + texts[6]["B" + t] == pytest.approx(p) for t, p in texts[5].items())


def test_what_is_written_is_of_the_chain() -> None:
    """In 400 texts each symbol is as frequent after its context as the chain says, at their beginnings too."""
    texts = chain().write(400, 500, np.random.default_rng(1))
    for context in chain().contexts:
        following = "".join(t[i + 3] for t in texts for i in range(497) if t.startswith(context, i))
        assert following.count("A") / len(following) == pytest.approx(chain().after(context)[0], abs=0.02)
    first = [t[:3] for t in chain().write(20_000, 3, np.random.default_rng(2))]

    shares = np.array([first.count(context) for context in chain().contexts]) / len(first)

    assert shares == pytest.approx(chain().beginnings(), abs=0.015)


@pytest.mark.parametrize(("symbols", "order", "seed"), [("AB", 3, 0), ("AB", 3, 1), ("abc", 2, 0)])
def test_bytes_are_the_chain_where_the_tokens_are(symbols: str, order: int, seed: int) -> None:
    """With the chain's own token probabilities the byte model is the chain to 1e-9, and tokens are off by 0.2 or more."""
    rows = exact_rows(symbols, order, seed, longest=order + (4 if len(symbols) == 2 else 2))

    assert largest(rows, "bytes") < 1e-9
    assert largest(rows, "tokens") > 0.2


def test_the_tokens_of_the_chain_are_those_of_its_texts() -> None:
    """In 4,000 texts, encoded, each beginning of three tokens is as frequent as the exact model says."""
    tokenizer = trained_tokenizer(chain())
    exact, texts = TokenChain.of(chain(), tokenizer), chain().write(4000, 60, np.random.default_rng(3))
    found = Counter(tuple(encoding.ids[:4]) for encoding in tokenizer.backend_tokenizer.encode_batch(texts))
    for ids, count in found.items():
        expected = np.prod([exact.row(ids[:at])[ids[at]] for at in (1, 2, 3)])
        assert abs(count / 4000 - expected) < 4.5 * (expected / 4000) ** 0.5 + 1e-3

    begun = np.array([encoding.ids[:9] for encoding in tokenizer.backend_tokenizer.encode_batch(texts[:5])])
    expected_rows = [[exact.row(tuple(row[: at + 1])) for at in range(9)] for row in begun.tolist()]
    assert (exact.along(begun) == np.array(expected_rows)).all()


def test_tokens_are_right_where_none_crosses_the_end() -> None:
    """After BAA, which no merge of this tokenizer goes beyond, both are right: the bias is at a token's end alone."""
    (row,) = [row for row in exact_rows("AB", 3, 0, longest=3) if row["after"] == "BAA"]

    assert row["tokens"]["prompt"] == "BAA"
    assert row["tokens"]["error"] < 1e-9


def test_drawn_prompts_end_in_their_context() -> None:
    """Distinct, of several lengths, and the same for a seed."""
    prompts = drawn_prompts(chain(), 7)

    assert prompts.keys() == set(chain().contexts)
    assert all(p.endswith(context) for context, own in prompts.items() for p in own)
    assert all(len(set(own)) == 7 and len({len(p) for p in own}) > 2 for own in prompts.values())
    assert prompts == drawn_prompts(chain(), 7)
    assert prompts != drawn_prompts(chain(), 7, seed=1)


def test_training_is_the_same_for_a_seed() -> None:
    """Two trainings are one model; another seed makes another."""
    tokenizer = trained_tokenizer(chain())
    models = [trained_model(chain(), tokenizer, steps=3, batch=2, seed=seed) for seed in (0, 0, 1)]
    first, second, other = (np.concatenate([p.detach().numpy().ravel() for p in m.parameters()]) for m in models)

    assert (first == second).all()
    assert (first != other).any()


def test_the_command_tells_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--out, --read and --plot; the exact model's figures do not depend on the training."""
    out, plot = tmp_path / "markov.json", tmp_path / "markov.png"
    arguments = ["--order", "2", "--steps", "2", "--prompts", "2", "--out", str(out), "--plot", str(plot)]

    assert markov.main(arguments) == 0
    shown = capsys.readouterr().out
    assert markov.main(["--read", str(out)]) == 0
    assert capsys.readouterr().out == shown

    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["largest"]["exact"]["bytes"] < 1e-9
    assert result["largest"]["trained"]["bytes"] > 0.01  # two batches teach little
    assert plot.stat().st_size > 1000
    titles = ["after", "symbol", "truth", "trained: by tokens", "by bytes", "exact: by tokens", "by bytes"]
    assert re.split(r" {2,}", shown.splitlines()[2].strip()) == titles
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize(
    "arguments",
    [
        ["--symbols", "A"],
        ["--symbols", "AA"],
        ["--symbols", "A "],
        ["--order", "0"],
        ["--vocabulary", "3"],
        ["--steps", "0"],
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str]) -> None:
    """Before anything is trained."""
    with pytest.raises(SystemExit):
        markov.main(arguments)


@pytest.mark.slow
def test_a_trained_model_is_right_by_bytes_and_wrong_by_tokens() -> None:
    """The largest error over contexts, prompts and symbols: below 0.01 by bytes, above 0.2 by tokens."""
    tokenizer = trained_tokenizer(chain())
    lm = ByteLM(trained_model(chain(), tokenizer), tokenizer)

    rows = estimates(lm, chain(), drawn_prompts(chain(), 20))

    assert largest(rows, "bytes") < 0.01
    assert largest(rows, "tokens") > 0.2
