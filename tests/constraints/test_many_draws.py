"""Twenty thousand draws of each law of texts, against the enumeration of all of them.

The faster tests beside this one draw some hundreds: they see a law that is quite another. These see one that is off by
a few percent. Chi-square with fixed seeds, which fails below p = 1e-4. A plain run makes a tenth of them (many.py).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, SamplingParams, constraints
from bytelm.sampling.completion import random_stream
from bytelm.sampling.conditioned import ConditionedGeneration
from bytelm.sampling.filters import Filters
from bytelm.sampling.generation import ByteGeneration
from bytelm.symbols import EOT, SYMBOLS
from evals.cost.lazy import Remembering, p_value
from tests.constraints.test_drawing import TEXTS, law
from tests.ensemble.test_whole_texts import EXACT, PROMPT, WEIGHTS, F, ensemble, member
from tests.sampling.test_generation import TOYS, exact_row
from tests.support.languages import language
from tests.support.many import draws_of
from tests.support.toy import Toy

pytestmark = pytest.mark.slow

DRAWS = draws_of(20_000)
P_THRESHOLD = 1e-4
MOST = 5  # bytes of a toy's text: the longest of TEXTS is cut


def exact_law(toy: Toy, prefix: bytes) -> dict[tuple[bytes, str], float]:
    """The model's probability of each completion that `TEXTS` allows, by its bytes and why it ended; normalised."""
    found: dict[tuple[bytes, str], float] = defaultdict(float)
    texts = language(TEXTS).texts
    for text in texts:
        cut = text[:MOST]
        rows = [exact_row(toy, prefix + cut[:at]) for at in range(len(cut) + 1)]
        mass = float(np.prod([row[byte] for row, byte in zip(rows, cut, strict=False)]))
        goes_on = any(other != text and other.startswith(text) for other in texts)
        if len(text) > MOST:
            found[cut, "length"] = mass  # whatever is behind it
        elif goes_on:
            found[text, "eot"] = mass * rows[-1][EOT]
        else:
            found[text, "stop"] = mass
    whole = sum(found.values())
    return {key: mass / whole for key, mass in found.items()}


@pytest.mark.parametrize("conditioning", ["step", "exact"])
@pytest.mark.parametrize("name", ["rare", "leaky"])
def test_texts_of_a_toy(name: str, conditioning: Any) -> None:
    """Step by step and exactly, with and without leak; the other law would not pass."""
    toy, known, _ = TOYS[name]
    laws = {"step": law(toy, known, language(TEXTS).texts, MOST, Filters()), "exact": exact_law(toy, known)}
    codes = {key: code for code, key in enumerate(laws["step"])}
    params = SamplingParams(constraint=constraints.choice(TEXTS), max_bytes=MOST, conditioning=conditioning)
    kind = ByteGeneration if conditioning == "step" else ConditionedGeneration
    drawn = [toy.answer(kind(toy.place(known), params, random_stream(3, index), never).run()) for index in range(DRAWS)]

    symbols = np.array([codes[done.bytes, done.finish_reason] for done in drawn])
    agreements = {each: p_value(symbols, np.array([laws[each].get(key, 0.0) for key in codes])) for each in laws}
    assert agreements.pop(conditioning) > P_THRESHOLD
    assert max(agreements.values()) < P_THRESHOLD


def never(text: bytes, eot: bool) -> Any:
    """A toy's place can always tell its log-probability."""
    pytest.fail(f"the place lost its mass: {text!r}, {eot}")


@pytest.mark.parametrize("name", EXACT)
def test_texts_of_an_ensemble(name: str) -> None:
    """All texts of up to two bytes, in proportion to f of what the members give each; another law would not pass.

    That is a member's own, and for the product that of the bytes' product.
    """
    members = [ByteLM(Remembering(member(seed).token_lm)) for seed in (2, 3)]
    probs = np.stack([two_bytes(lm) for lm in members])
    with np.errstate(divide="ignore"):  # of a text that a member gives 0, the harmonic mean is 0
        expected = F[name](probs)
    done: Any = ensemble(members, name).sample(PROMPT, n=DRAWS, seed=7, max_bytes=2, conditioning="exact")

    symbols = np.array([code_of(each.bytes) for each in done])
    assert p_value(symbols, expected / expected.sum()) > P_THRESHOLD
    wrong = (
        two_bytes(Ensemble(members, combine="product", weights=WEIGHTS)) if name == "product" else max(probs, key=sum)
    )
    assert p_value(symbols, wrong / wrong.sum()) < P_THRESHOLD


def code_of(text: bytes) -> int:
    """The place of a text of up to two bytes among all of them, each followed by the end of text as its last symbol."""
    symbols: list[int] = [*text, EOT, EOT]
    return symbols[0] * SYMBOLS + symbols[1]


def two_bytes(lm: Any) -> np.ndarray:
    """The probability of each text of up to two bytes; of a shorter one with its end."""
    first = np.exp(lm.next_byte_logprobs(PROMPT))
    found = np.zeros(SYMBOLS * SYMBOLS)
    for byte in range(EOT):
        if first[byte]:
            row = np.exp(lm.next_byte_logprobs(PROMPT.encode() + bytes([byte])))
            found[byte * SYMBOLS : (byte + 1) * SYMBOLS] = first[byte] * row
    found[code_of(b"")] = first[EOT]
    return found


def test_texts_have_places_of_their_own() -> None:
    """By definition of the oracle."""
    texts = [b"", *(bytes([a]) for a in range(256)), *(bytes(pair) for pair in itertools.product(range(256), repeat=2))]

    assert len({code_of(text) for text in texts}) == len(texts)
