"""The data of each picture: what the browser is given."""

from __future__ import annotations

import json
import math

from bytelm.pictures.values import (
    Branch,
    CoverTree,
    CoverWalk,
    Driven,
    Method,
    Place,
    Strip,
    Sweep,
    Token,
    TreeStep,
    UnitStrip,
    Written,
)


def test_a_strip_has_bytes_tokens_and_sums() -> None:
    """Bytes that are no UTF-8 are numbers, −∞ and NaN are null, the end of text among the likeliest is null."""
    strip = Strip(
        b"a\xff",
        [Place(-1.5, [(97, -1.5), (256, -2.0)], 0.25, 3.0), Place(-math.inf, leak=math.nan)],
        [Token("a", 0, 1, -1.0)],
    )

    assert strip.data() == {
        "bytes": [
            {"byte": 97, "logprob": -1.5, "leak": 0.25, "entropy": 3.0, "top": [[97, -1.5], [None, -2.0]]},
            {"byte": 255, "logprob": None, "leak": None},
        ],
        "tokens": [{"shown": "a", "start": 0, "end": 1, "logprob": -1.0}],
        "logprob": None,
        "bits_per_byte": None,
    }
    rate = Strip(b"ab", [Place(-1.0), Place(-2.0)]).data()
    assert (rate["tokens"], rate["logprob"], rate["bits_per_byte"]) == (None, -3.0, round(1.5 / math.log(2), 5))


def test_units_and_the_end_of_text() -> None:
    units = UnitStrip("word", [(b"a\xc3", Place(-1.0, leak=0.5)), (None, Place(-0.5))])

    assert units.data() == {
        "by": "word",
        "units": [
            {"text": "a\\xc3", "end": False, "logprob": -1.0, "leak": 0.5},
            {"text": "", "end": True, "logprob": -0.5},
        ],
        "logprob": -1.5,
    }


def test_a_tree_has_its_text_and_a_completion_its_facts() -> None:
    step = TreeStep(-1.0, [Branch((1, 2), ("a", "b"), 0.75, 1)], hidden=3, left_out=4)

    assert CoverTree(b"a\xff", step).data() == {"text": "a\\xff", **step.data()}
    assert Written("a\nb", ("one", "two")).data() == {"text": "a\nb", "facts": ["one", "two"]}


def test_dead_branches_say_why() -> None:
    step = TreeStep(-1.0, [Branch((1, 2), ("a", "b"), 0.75, 1)], [Branch((-1,), (None,), 0.1, why="no text")], 3, 4)

    assert CoverWalk(b"ab", [step]).data() == {
        "bytes": [97, 98],
        "steps": [
            {
                "logprob": -1.0,
                "items": [{"token_ids": [1, 2], "tokens": ["a", "b"], "share": 0.75, "beyond": 1}],
                "dead": [{"token_ids": [-1], "tokens": [None], "share": 0.1, "dead": True, "why": "no text"}],
                "hidden": 3,
                "left_out": 4,
            }
        ],
        "at": 0,
    }


def test_who_drove() -> None:
    driven = Driven(b"a", ["x", "y"], [-1.0], [[-2.0, -math.inf]], [[1.5, -0.5]], [0], "product")

    assert driven.data() == {
        "combine": "product",
        "members": ["x", "y"],
        "bytes": [
            {
                "byte": 97,
                "logprob": -1.0,
                "members": [{"logprob": -2.0, "weight": 1.5}, {"logprob": None, "weight": -0.5}],
                "driver": 0,
            }
        ],
    }


def test_a_sweep_tells_impossible_from_unknown() -> None:
    """A method that cannot go on has no number; one that gives the word nothing says so."""
    sweep = Sweep(b"ab", ["ab", "ab"], [Method("by bytes", [-1.0, None], [-1.0, -math.inf])])

    method = sweep.data()["methods"][0]
    assert (method["word"], method["rest"]) == ([-1.0, None], [-1.0, "impossible"])
    json.dumps(sweep.data(), allow_nan=False)
