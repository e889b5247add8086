"""That shapes are checked while tests run, and what has none is not slowed down."""

from __future__ import annotations

from typing import Any

import jaxtyping
import numpy as np
import pytest

from bytelm.ensemble.place import EnsemblePlace
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.scheduler import Scheduler
from bytelm.sampling.posterior import picked
from bytelm.tokenizer.viability.viability import Viability
from tests.support.shapes import names_arrays


@pytest.fixture(autouse=True)
def hook(request: pytest.FixtureRequest) -> None:
    """The tests' own settings, without which nothing is checked."""
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("jaxtyping's hook is off: --jaxtyping-packages is not given")


def test_a_wrong_shape_is_an_error() -> None:
    """At the call itself."""
    with pytest.raises(jaxtyping.TypeCheckError, match="masses"):
        picked(np.ones((2, 2)), 0.5)


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        (picked, True),
        (Viability.mask, True),
        (Scheduler._resume, True),  # by an alias in quotes
        (EnsemblePlace.advance, False),
        (JobUsage.plus, False),
        (JobUsage, False),
    ],
)
def test_what_names_arrays(annotated: Any, *, expected: bool) -> None:
    """Read off the annotations, through aliases."""
    assert names_arrays(annotated) is expected
