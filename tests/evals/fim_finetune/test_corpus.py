"""Which functions are taken: licences, sizes, repetitions, the benchmark, what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.fim_finetune.corpus import Benchmark, Function, build, functions_of
from evals.fim_finetune.settings import Choice
from evals.fim_finetune.sources import find_sources, is_permissive, licence_of
from tests.evals.fim_finetune.toy import (
    install,
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-2-Clause", True),
        ("(MIT AND Zlib) OR 0BSD", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT OR GPL-3.0-only", False),
        ("LGPL-2.1-or-later", False),
        ("LicenseRef-Mine", False),
        ("LLVM-exception", False),
        ("", False),
    ],
)
def test_all_licences_of_an_expression_count(expression: str, expected: bool) -> None:
    """An SPDX expression is permissive if each licence that it names is."""
    assert is_permissive(expression) == expected


@pytest.mark.parametrize(
    ("expression", "classifiers", "field", "expected"),
    [
        (None, ["License :: OSI Approved :: MIT License"], None, True),
        (None, ["License :: OSI Approved :: MIT License"], "a whole\nlicence text", True),
        (None, ["License :: OSI Approved :: MIT License"], "MPL-2.0 AND MIT", False),
        (None, ["License :: OSI Approved"], "MIT", False),
        (None, ["Topic :: Games"], "Apache 2.0 License", True),
        (None, [], "a whole\nlicence text", False),
        (None, [], None, False),
        ("GPL-3.0-only", ["License :: OSI Approved :: MIT License"], "MIT", False),
    ],
)
def test_everything_said_of_a_licence_counts(
    expression: str | None, classifiers: list[str], field: str | None, expected: bool
) -> None:
    """The expression decides where there is one; else every classifier and the one-line field; silence is no licence."""
    assert licence_of(expression, classifiers, field)[1] == expected


def test_only_permissive_source_is_found(world: Path) -> None:
    """Packages under other licences and folders of tests are left out, with the reason kept."""
    sources, left_out = find_sources(("alpha", "Closed", "absent"), [world / "site"])

    assert [(s.package, s.version, s.licence, [name for name, _ in s.files]) for s in sources] == [
        ("alpha", "1.0", "MIT", ["alpha/a.py"])
    ]
    assert left_out == {"absent": "not installed", "closed": "licence: GPL-3.0-only"}


def test_the_standard_library_is_a_package() -> None:
    """Its files are found under its own licence, without those of its tests and of what is installed beside it."""
    sources, _ = find_sources(["python"])
    names = [name for name, _ in sources[0].files]

    assert (sources[0].package, sources[0].licence) == ("python", "PSF-2.0")
    assert {"textwrap.py", "json/decoder.py"} <= {*names}
    assert not [name for name in names if "site-packages" in name or name.startswith("test/")]
    assert names == sorted(names)


def test_functions_are_whole_lines_without_their_indentation() -> None:
    """Decorators belong to a function, a method is one, a function inside another is not, a form feed ends no line."""
    source = "x = 1\n\x0c\nclass A:\n    @property\n    def a(self):\n        def b(): pass\n        return b\nasync def c(): ..."

    actual = [(function.name, function.line, function.text) for function in functions_of(source)]

    assert actual == [
        ("a", 4, "@property\ndef a(self):\n    def b(): pass\n    return b\n"),
        ("c", 8, "async def c(): ...\n"),
    ]
    assert list(functions_of("def broken(:")) == []


def test_a_corpus_holds_nothing_twice_and_nothing_of_the_benchmark(tmp_path: Path) -> None:
    """Out go copies (also of what is held out), functions named as in the benchmark, and those with a line of it."""
    long = "the_sum_of_all = sum(value for value in values if value > 0)"
    body = "    # a comment that makes it long enough to be taken\n    return 1\n"
    kept = f"def kept():\n{body}"
    install(
        tmp_path,
        "train",
        files={
            "m.py": f"{kept}\ndef copied():\n{body}\ndef copied():\n\n{body}\ndef solve():\n{body}\n"
            f"def lined(values):\n    {long}  # more\n{body}\ndef short(): ...\n"
        },
    )
    install(tmp_path, "held", files={"m.py": f"def copied():\n{body}"})
    row = {"entry_point": "solve", "prompt": "def f(v):\n", "canonical_solution": f"  {long[:5]}", "suffix": long[5:]}
    (tmp_path / "b.jsonl").write_text(json.dumps(row) + "\n\n")
    benchmark = Benchmark.read([tmp_path / "b.jsonl"])
    choice = Choice(packages=["train"], held_out_packages=["held"], min_chars=40, max_chars=300)

    corpus = build(choice, benchmark, folders=[tmp_path])
    unchecked = build(choice, None, folders=[tmp_path])

    assert [(f.package, f.name) for f in corpus.train] == [("train", "kept")]
    assert [(f.package, f.name) for f in corpus.held_out] == [("held", "copied")]
    assert corpus.record["dropped"] == {"benchmark": 2, "repeated": 2}
    assert [f.name for f in unchecked.train] == ["kept", "solve", "lined"]
    assert unchecked.record["deduplicated_against"] is None


def test_a_share_is_held_out_by_the_function_alone(world: Path) -> None:
    """Held out by sha256, a function is on the same side whatever else is installed, and few come from one package."""
    choice = Choice(packages=["alpha", "beta"], held_out_share=0.25, held_out_functions=1000, per_package=60)
    both = build(choice, None, folders=[world / "site"])
    one = build(Choice(packages=["beta"], held_out_share=0.25, per_package=60), None, folders=[world / "site"])

    held = {f.digest for f in both.held_out}
    assert {f.digest for f in one.held_out} == held & {f.digest for f in (*one.train, *one.held_out)}
    assert len(both.train) + len(both.held_out) == 120
    assert 10 <= len(held) <= 50  # 30 are expected, with a standard deviation of 4.7
    assert held.isdisjoint(f.digest for f in both.train)


def test_a_function_is_known_by_its_words() -> None:
    """White space makes no other function of it."""
    one, other = (
        Function("p", "f", 1, "a", text) for text in ("def a():\n    return 1\n", "def a():\n\treturn  1\n\n")
    )

    assert one.digest == other.digest
