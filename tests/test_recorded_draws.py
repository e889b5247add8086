"""The calls of tests/recorded/calls.py, made again: they answer what was recorded before the layout changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.recorded.calls import CALLS, REAL_CALLS, TINY, Call, Models, recorded, results

RECORDED = recorded()


@pytest.fixture(scope="module")
def models() -> Models:
    """The models of the calls, each made when it is first asked for; nothing else uses them."""
    return Models()


def differences(actual: Any, expected: Any, *, relative: float, absolute: float, at: str = "") -> Iterator[str]:
    """Where two answers differ: numbers by more than a tolerance, all else at all."""
    tolerance = {"relative": relative, "absolute": absolute}
    if isinstance(expected, dict) and isinstance(actual, dict) and actual.keys() == expected.keys():
        for key in expected:
            yield from differences(actual[key], expected[key], at=f"{at}.{key}", **tolerance)
    elif isinstance(expected, list) and isinstance(actual, list) and len(actual) == len(expected):
        for i, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
            yield from differences(mine, theirs, at=f"{at}[{i}]", **tolerance)
    elif isinstance(expected, float) and isinstance(actual, float):
        if not math.isclose(actual, expected, rel_tol=relative, abs_tol=absolute):
            yield f"{at}: {actual!r}, recorded {expected!r}"
    elif actual != expected:
        yield f"{at}: {actual!r}, recorded {expected!r}"


def test_the_file_holds_the_answers_of_these_calls() -> None:
    """Each call has a name of its own and a recorded answer, in the order of the list, and nothing else is recorded."""
    assert list(RECORDED) == [call.name for call in CALLS]


def test_every_way_to_end_is_among_the_answers() -> None:
    """Tiny and real models alike have ended by an end of text, by a stop string and by the length."""
    for calls in (TINY, REAL_CALLS):
        answers = [RECORDED[call.name].get("completions", []) for call in calls]

        assert {each["finish_reason"] for answer in answers for each in answer} == {"eot", "stop", "length"}


@pytest.mark.parametrize("call", TINY, ids=lambda call: call.name)
def test_a_tiny_model_answers_as_before(models: Models, call: Call) -> None:
    """Bytes and token ids are those recorded before the layout changed, and numbers agree within 1e-9 of their size."""
    actual = results(call, models)

    # Mamba computes in float32 inside, so another way through the same tokens differs by rounding.
    relative = 1e-7 if call.name.endswith("recurrent") else 1e-9
    assert [*differences(actual, RECORDED[call.name], relative=relative, absolute=1e-11)] == []


@pytest.mark.slow
@pytest.mark.parametrize("call", REAL_CALLS, ids=lambda call: call.name)
def test_a_real_model_answers_as_before(models: Models, call: Call) -> None:
    """Bytes and token ids are those recorded before the layout changed, and numbers agree within 1e-4 of their size."""
    actual = results(call, models)

    assert [*differences(actual, RECORDED[call.name], relative=1e-4, absolute=1e-5)] == []
