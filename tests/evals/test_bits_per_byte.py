"""Bits per byte: what is scored, by bytes, by tokens and together, on tiny models whose every number can be had twice."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble
from bytelm.engines.table import TableLM
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.ensemble.combine import Combine
from bytelm.errors import InvalidArgumentError, UnreachablePrefixError
from evals.bits_per_byte import __main__ as bits_per_byte
from evals.bits_per_byte.__main__ import BIN, line_of, summary_of
from evals.bits_per_byte.documents import Document, read_documents
from evals.bits_per_byte.scores import Panel, token_logprobs
from evals.report.errors import DataError
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer, tiny_model

TEXT: Final = (
    b"def fibonacci(n):\n    if n < 2:\n\n        return  n + 1  # the quick brown fox, na\xc3\xafve \xe4\xbd\xa0"
)


@pytest.fixture(scope="module")
def lms() -> dict[str, ByteLM]:
    """Three small models with three vocabularies; the last one reads so few tokens that a text needs a stride."""
    spaced = sentencepiece_bpe_tokenizer(prepend=True)
    return {
        "plain": ByteLM(TransformersLM(tiny_model("llama"), default_tokenizer())),
        "spaced": ByteLM(TransformersLM(tiny_model("llama", vocab_size=431, seed=3), spaced)),
        "short": ByteLM(
            TransformersLM(
                tiny_model("llama", vocab_size=293, seed=5, max_position_embeddings=29),
                byte_bpe_tokenizer(vocab_size=293, bos="<s>"),
            )
        ),
    }


def panel(lms: dict[str, ByteLM], *names: str, **options: Any) -> Panel:
    return Panel({name: lms[name] for name in names}, **options)


@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
@pytest.mark.parametrize(("names", "stride"), [(("plain", "spaced"), None), (("plain", "short"), 7)])
def test_together_is_what_an_ensemble_says(
    lms: dict[str, ByteLM], combine: Combine, names: tuple[str, str], stride: int | None
) -> None:
    """Byte by byte, within 1e-9, with unequal weights and beyond a model's context."""
    ensemble = Ensemble([lms[name] for name in names], weights=[0.7, 0.3], combine=combine)

    score = panel(lms, *names, combine=[combine], weights=[0.7, 0.3], stride=stride).scores(TEXT)[combine]

    assert score.logprobs == pytest.approx(ensemble.byte_logprobs(TEXT, stride=stride), abs=1e-9)


@pytest.mark.parametrize("name", ["plain", "spaced"])
def test_by_tokens_is_the_chain_rule_over_the_canonical_tokens(lms: dict[str, ByteLM], name: str) -> None:
    """The same as one forward pass of the model over the tokenizer's own encoding, and never above the sum over all."""
    import torch

    lm = lms[name]
    engine: Any = lm.token_lm
    own = engine.tokenizer(TEXT.decode(), add_special_tokens=False).input_ids
    with torch.inference_mode():
        # The engine's empty sequence is its start symbol alone.
        start, rows = (engine.model(torch.tensor([ids])).logits[0].log_softmax(-1) for ids in ([engine.start_id], own))
    expected = float(start[0, own[0]]) + math.fsum(float(rows[i, token]) for i, token in enumerate(own[1:]))

    assert token_logprobs(lm, TEXT).sum() == pytest.approx(expected, abs=1e-6)
    assert token_logprobs(lm, TEXT).sum() <= lm.byte_logprobs(TEXT).sum() + 1e-9


def test_a_token_is_shared_out_among_its_bytes(lms: dict[str, ByteLM]) -> None:
    """Each byte of a token has an equal part, and the parts of one token sum to its log-probability."""
    lm = lms["plain"]
    ids = lm.viability.vocab.encode(TEXT.decode())
    found, at = token_logprobs(lm, TEXT), 0
    for i, token in enumerate(ids):
        size = len(lm.viability.vocab.token_bytes[token] or b"")
        row = lm.token_lm.next_token_logprobs([ids[:i]])[0]
        assert found[at : at + size] == pytest.approx([float(row[token]) / size] * size)
        at += size

    assert at == len(TEXT)


def test_by_tokens_a_long_text_is_scored_in_the_pieces_of_the_bytes(lms: dict[str, ByteLM]) -> None:
    """Each token is scored once, after as many before it as one context holds; the first piece is that of no stride."""
    lm = lms["short"]
    asked: list[tuple[int, ...]] = []
    engine: Any = lm.token_lm

    class Noting:
        tokenizer, vocab_size, eot_ids = engine.tokenizer, engine.vocab_size, engine.eot_ids
        context_length = engine.context_length

        def next_token_logprobs(self, sequences: Any) -> Any:
            asked.extend(tuple(sequence) for sequence in sequences)
            return engine.next_token_logprobs(sequences)

    noting = ByteLM(Noting())
    found = token_logprobs(noting, TEXT, stride=9)
    ids = noting.viability.vocab.encode(TEXT.decode())

    assert len(asked) == len(ids)
    assert all(tuple(ids[i - len(sequence) : i]) == sequence for i, sequence in enumerate(asked))
    assert max(map(len, asked)) <= 29
    assert min(len(sequence) for sequence in asked[20:]) > 10
    assert np.isfinite(found).all()
    assert (found < 0).all()


def test_bits_of_a_model_that_knows_nothing() -> None:
    """A uniform row over 311 tokens: by tokens log₂ 311 a token; of two such models together, the same."""
    tokenizer = default_tokenizer()
    lm = ByteLM(TableLM(tokenizer, table=lambda _: [1 / 311] * 311))
    text = b"the quick brown fox"
    both = Panel({"a": lm, "b": lm}, combine=["mixture", "bayes"]).scores(text)
    count = len(tokenizer(text.decode()).input_ids)

    assert -both["a, tokens"].logprobs.sum() / math.log(2) == pytest.approx(count * math.log2(311))
    assert both["mixture"].logprobs == pytest.approx(both["a, bytes"].logprobs)
    assert both["bayes"].logprobs == pytest.approx(both["a, bytes"].logprobs)


def test_the_members_alone_are_run_for_a_mixture_and_bayes(lms: dict[str, ByteLM]) -> None:
    """Their calls and tokens are those of the members; a product, which needs whole rows, evaluates more nodes."""
    scores = panel(lms, "plain", "spaced", combine=["mixture", "bayes", "product"]).scores(TEXT)
    members = [scores[f"{name}, bytes"] for name in ("plain", "spaced")]

    assert all(score.calls > 0 and score.fed > len(TEXT) / 8 for score in members)
    for formula in ("mixture", "bayes"):
        assert scores[formula].fed == sum(score.fed for score in members)
        assert scores[formula].calls == sum(score.calls for score in members)
    assert 1 <= scores["product"].fed / scores["mixture"].fed < 1.6


def test_weights_are_refused_before_anything_is_run(lms: dict[str, ByteLM]) -> None:
    """Too many of them, or a negative one in a mixture."""
    for weights in ([1.0, 1.0, 1.0], [1.0, -0.5]):
        with pytest.raises(InvalidArgumentError):
            panel(lms, "plain", "spaced", combine=["mixture"], weights=weights)


def test_a_line_holds_sums_of_bits(lms: dict[str, ByteLM]) -> None:
    """One number for each 64 bytes, rounded to 1e-4, that sum to the document's."""
    document = Document("a", "1", TEXT)
    line = line_of(document, panel(lms, "plain"))

    assert len(line["bits"]["plain, bytes"]) == -(-len(TEXT) // BIN)
    expected = -lms["plain"].byte_logprobs(TEXT).sum() / math.log(2)
    assert sum(line["bits"]["plain, bytes"]) == pytest.approx(expected, abs=2e-4)


def test_what_a_model_cannot_spell_is_left_out(lms: dict[str, ByteLM]) -> None:
    """▁ is no text of a SentencePiece tokenizer; the line says why."""
    line = line_of(Document("a", "1", "a ▁ b".encode()), panel(lms, "plain", "spaced"))

    assert line["kind"] == "left out"
    assert line["why"]
    with pytest.raises(UnreachablePrefixError):
        token_logprobs(lms["spaced"], "a ▁ b".encode())


def _line(name: str, size: int, bits: dict[str, list[float]]) -> dict[str, Any]:
    cost = {method: {"calls": 1, "fed": 2 * size, "seconds": 0.5} for method in bits}
    return {"kind": "document", "source": "s", "id": name, "bytes": size, "bits": bits, "cost": cost}


def test_the_summary_by_hand() -> None:
    """100 and 64 bytes, 200 and 64 bits: 264/164 a byte, and the difference from the best member document by document."""
    methods = ["m, tokens", "m, bytes"]
    header = {"command": "c", "versions": {}, "settings": {"sources": ["s", "t"], "methods": methods}}
    lines = [
        _line("1", 100, {"m, tokens": [150.0, 60.0], "m, bytes": [140.0, 60.0]}),
        _line("2", 64, {"m, tokens": [64.0], "m, bytes": [64.0]}),
        {"kind": "left out", "source": "s", "id": "3", "bytes": 9, "why": "because"},
    ]
    summary = summary_of(header, lines)
    figures = summary["figures"]["s"]

    assert figures["m, bytes"]["bits_per_byte"]["mean"] == pytest.approx(264 / 164)
    assert figures["m, bytes"]["difference"] is None
    assert figures["m, tokens"]["difference"]["mean"] == pytest.approx(10 / 164)
    assert np.isnan(figures["m, tokens"]["difference"]["low"])  # of two documents there is no interval
    assert figures["m, bytes"]["fed_per_byte"] == 2
    assert summary["documents"] == {
        "s": {"scored": 2, "bytes": 164, "left_out": 1},
        "t": {"scored": 0, "bytes": 0, "left_out": 0},
    }
    assert summary["by_position"]["s"] == {
        "bytes": [128, 36],
        "documents": [2, 1],
        "bits": {"m, tokens": [214.0, 60.0], "m, bytes": [204.0, 60.0]},
    }


# ---- documents


def test_documents_are_cut_and_counted(tmp_path: Path) -> None:
    """The beginnings of texts, at a character, so many bytes of a source; no text twice, none that is empty or no text."""
    texts = ["é" * 9, "é" * 9, "", "abc", "é" * 7 + "b"]
    lines = [json.dumps({"t": text}) for text in texts]
    (tmp_path / "all.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.py").write_bytes(b"a\xff")
    (folder / "b.py").write_bytes(b"bbbb")
    (folder / "c.txt").write_bytes(b"cccc")
    sources = [str(tmp_path / "all.jsonl"), str(folder)]
    documents = read_documents(sources, most_bytes=12, document_bytes=11, field="t", seed=4)

    first = [document for document in documents.taken if document.source == "all.jsonl"]
    assert {document.id for document in first} <= {"1", "2", "4", "5"}
    # Five characters, 10 bytes, and the beginning of abc; or abc and four characters.
    assert sum(len(document.text) for document in first) in (11, 12)
    assert documents.left_out == {"all.jsonl": 3, "folder": 1}
    assert [(d.source, d.id, d.text) for d in documents.taken[len(first) :]] == [("folder", "b.py", b"bbbb")]
    again = read_documents(sources, most_bytes=12, document_bytes=11, field="t", seed=4)
    assert documents.sha256() == again.sha256()
    more = read_documents(sources, most_bytes=100, document_bytes=11, field="t", seed=4)
    assert [d.id for d in more.taken][: len(first) - 1] == [d.id for d in first][:-1]
    assert more.sha256() != documents.sha256()


def test_a_compressed_file_is_the_same(tmp_path: Path) -> None:
    """.jsonl.gz holds what .jsonl holds."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"t": "abc"}\n'))

    documents = read_documents([str(tmp_path / "a.jsonl.gz")], most_bytes=9, document_bytes=9, field="t")

    assert [document.text for document in documents.taken] == [b"abc"]


def test_texts_that_come_with_python() -> None:
    """A hundred thousand bytes of each are there."""
    documents = read_documents(["stdlib", "pydoc"], most_bytes=100_000, document_bytes=4096)

    sizes = {name: sum(len(d.text) for d in documents.taken if d.source == name) for name in ("stdlib", "pydoc")}
    assert all(100_000 - 4 < size <= 100_000 for size in sizes.values())


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("none.txt", None, None),
        ("empty.txt", b"", None),
        ("a.jsonl", b'{"t": "abc"}\n', None),
        ("a.jsonl", b'{"t": "abc"}\n', "u"),
        ("a.jsonl", b'{"t": 1}\n', "t"),
        ("a.jsonl", b"abc\n", "t"),
        ("a.jsonl.gz", b"abc\n", "t"),
    ],
)
def test_data_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, field: str | None) -> None:
    """An error that names the file."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_documents([str(tmp_path / name)], most_bytes=9, document_bytes=9, field=field)


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their documents could not be told apart in a results file."""
    (tmp_path / "a.txt").write_bytes(b"a")
    with pytest.raises(DataError, match=r"a\.txt"):
        read_documents([str(tmp_path / "a.txt")] * 2, most_bytes=9, document_bytes=9)


# ---- the command


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tiny models on disk."""
    place = tmp_path_factory.mktemp("models")
    for name, seed in (("one", 0), ("two", 1)):
        tiny_model("llama", seed=seed).save_pretrained(place / name)
        default_tokenizer().save_pretrained(place / name)
    return [str(place / name) for name in ("one", "two")]


def test_the_command_goes_on_where_it_was_killed(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is cut in the middle of a line, and --resume: the same figures, from fewer scorings; --read and --plot."""
    out, plot, texts = tmp_path / "bits.jsonl", tmp_path / "bits.png", tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"{i} " + TEXT.decode()}) for i in range(3)]
    texts.write_text("\n".join(lines), encoding="utf-8")
    arguments = [str(texts), "--field", "text", "-m", folders[0], "-m", folders[1], "--out", str(out)]

    assert bits_per_byte.main(arguments) == 0
    capsys.readouterr()
    whole = out.read_bytes()
    assert bits_per_byte.main(arguments) == 1
    assert "--resume" in capsys.readouterr().err
    out.write_bytes(whole[:-20])
    assert bits_per_byte.main([*arguments, "--resume", "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert bits_per_byte.main(["--read", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)

    before, after = ([json.loads(line) for line in data.splitlines()] for data in (whole, out.read_bytes()))
    assert [line.get("bits") for line in after] == [line.get("bits") for line in before]
    assert after[:3] == before[:3]
    assert plot.stat().st_size > 1000
    figures = summary["figures"]["texts.jsonl"]
    assert list(figures) == ["one, tokens", "one, bytes", "two, tokens", "two, bytes", "mixture", "bayes"]
    assert figures["one, bytes"]["bits_per_byte"]["mean"] <= figures["one, tokens"]["bits_per_byte"]["mean"]
    assert f"{figures['bayes']['bits_per_byte']['mean']:.4f}" in shown
    assert max(map(len, shown.splitlines()[1:])) <= 120
    assert bits_per_byte.main([*arguments, "--resume", "--stride", "7"]) == 1
    assert "stride" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.txt", "--combine", "sum", "-m", "a", "-m", "b"],
        ["a.txt", "--combine", "bayes"],
        ["a.txt", "-m", "x/a", "-m", "y/a"],
        ["a.txt", "--stride", "0"],
        ["a.txt", "--resume"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    """Exit code 2, before anything is read."""
    with pytest.raises(SystemExit):
        bits_per_byte.main(arguments)


def test_what_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, and no traceback."""
    assert bits_per_byte.main([str(tmp_path / "none.txt")]) == 1
    assert "none.txt" in capsys.readouterr().err
