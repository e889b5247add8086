"""The data of the offline tasks, read from the folder that BYTELM_TEST_DATA names, with the columns of lm-eval's own.

Rules
    Each file must have the recorded sha256 (mmlu: one sha256 for all 57 files).
    Rows get the columns of lm-eval's task of the same name, so that its prompts, targets and metrics can be used
    unchanged. Where a file lacks something, README.md in this folder names the difference.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from bytelm.errors import BytelmError

SHA256: Final = {
    "lambada/lambada_test.jsonl": "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
    "piqa/valid.jsonl": "93503cc97c679e459b065c3d13e848282e44b2a25213985bed3e5d458abef72d",
    "piqa/valid-labels.lst": "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb",
    "boolq/boolq.jsonl": "454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8",
    "hellaswag/hellaswag_val_full.txt.bz2": "50b637899e4263c2bc456c2dc726c95d2c8cd8e2a552ea5bd7719ce3cb03fe5b",
    "gsm8k/test.jsonl": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    "nq_open/NQ-open.dev.jsonl": "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
    "triviaqa/triviaqa_sm_sub.jsonl": "e3e8222e94cae291d7ab132e59f09c4f51580ed3e23639cf29c2926b4c8284e9",
    "mmlu/test": "3cb71f64745d54616c8b1143659f43c5e51fff1e1189fc11bf80a6e35bf99080",
}

Row = dict[str, Any]


def lambada(**_: Any) -> Any:
    """Passages; the last word is to be foretold."""
    return _test(_lines("lambada/lambada_test.jsonl"))


def piqa(**_: Any) -> Any:
    """A goal, two solutions, and which of them is right."""
    labels = _read("piqa/valid-labels.lst").split()
    rows = zip(_lines("piqa/valid.jsonl"), labels, strict=True)
    return _test({**row, "label": int(label)} for row, label in rows)


def boolq(**_: Any) -> Any:
    """A passage, a question about it, and whether the answer is yes."""

    def row(line: Row) -> Row:
        passage, question = line["query"].removeprefix("Passage: ").rsplit("\nQuestion: ", 1)
        return {"passage": passage, "question": question.removesuffix("?"), "label": line["gold"]}

    return _test(map(row, _lines("boolq/boolq.jsonl")))


def hellaswag(**_: Any) -> Any:
    """The beginning of a scene, four ways to go on, and which of them is right."""
    lines = bz2.decompress(_bytes("hellaswag/hellaswag_val_full.txt.bz2")).decode().split("\n")
    tasks = (lines[start : start + 6] for start in range(0, len(lines) - 5, 6))
    return _test(
        {"query": scene.strip(), "label": int(gold), "choices": [ending.strip() for ending in endings]}
        for scene, gold, *endings in tasks
    )


def mmlu(**_: Any) -> Any:
    """Questions with four choices, of 57 subjects."""
    rows = []
    for path in _files("mmlu/test"):
        subject = path.stem.removesuffix("_test").replace("_", " ")
        for question, *choices, answer in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
            rows.append({"subject": subject, "question": question, "choices": choices, "answer": "ABCD".index(answer)})
    return _test(rows)


def gsm8k(**_: Any) -> Any:
    """Sums in words, each with its way and its result. The first eight are the examples, and are not asked."""
    import datasets

    rows = _lines("gsm8k/test.jsonl")
    return {"train": datasets.Dataset.from_list(rows[:8]), **_test(rows[8:])}


def nq_open(**_: Any) -> Any:
    """Questions, with all answers that count."""
    return _test(_lines("nq_open/NQ-open.dev.jsonl"))


def triviaqa(**_: Any) -> Any:
    """Questions, with all answers that count."""

    def row(line: Row) -> Row:
        question = re.fullmatch(r"Question: (.*)\nAnswer:", line["context"], re.DOTALL)
        text = question[1] if question else line["context"]
        if text.startswith('"') and text.endswith('"'):  # what is left of a CSV file's quotation marks
            text = text[1:-1].replace('""', '"')
        return {"question": text, "answer": {"aliases": line["aliases"]}}

    return _test(map(row, _lines("triviaqa/triviaqa_sm_sub.jsonl")))


def _test(rows: Iterable[Row]) -> Any:
    import datasets

    return {"test": datasets.Dataset.from_list(list(rows))}


def _folder() -> Path:
    named = os.environ.get("BYTELM_TEST_DATA")
    if not named:
        raise BytelmError(
            "BYTELM_TEST_DATA is not set: set it to a folder with the files data/lambada/lambada_test.jsonl and so on; "
            "evals/tasks/README.md lists them"
        )
    return Path(named) / "data"


def _bytes(name: str) -> bytes:
    path = _folder() / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BytelmError(f"cannot read {path}: {error.strerror}; evals/tasks/README.md describes it") from error
    if (found := hashlib.sha256(data).hexdigest()) != SHA256[name]:
        raise BytelmError(f"{path} is another file than the expected one: its sha256 is {found}, not {SHA256[name]}")
    return data


def _read(name: str) -> str:
    return _bytes(name).decode()


def _lines(name: str) -> list[Row]:
    return [json.loads(line) for line in _read(name).split("\n") if line]


def _files(name: str) -> list[Path]:
    """The files of a folder, found to be those that are meant."""
    paths = sorted((_folder() / name).glob("*.csv"))
    whole = hashlib.sha256("".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in paths).encode())
    if whole.hexdigest() != SHA256[name]:
        raise BytelmError(
            f"the {len(paths)} files in {_folder() / name} are not the 57 expected ones: the sha256 of their names and "
            f"sums is {whole.hexdigest()}, not {SHA256[name]}"
        )
    return paths
