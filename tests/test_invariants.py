"""What holds after every byte of hostile strings, on the real vocabularies, and that breaking the code by hand is seen."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bytelm.cover.cover import Cover, Node
from bytelm.cover.nodes import RankedArray
from bytelm.errors import UnreachablePrefixError
from bytelm.testing.tokenizers.definition import Definition, Ids
from bytelm.testing.tokenizers.judge import Judge
from bytelm.tokenizer.prefix_index import Branch
from bytelm.tokenizer.viability.boundary import Boundary
from bytelm.tokenizer.viability.viability import Viability
from tests.support.hostile import CHANGING, HOSTILE

# What may follow, so that splits look ahead: the prefix itself and one of each kind.
FOLLOWING = ("", " ", "a", "\n", "1", "'", ".", "é", "日", "  a", "\n\nb", "\u2028")
REAL = ("smollm2", "llama2", "gemma3")


class Subject:
    """One real tokenizer: bytelm's reading of it, the tokenizer itself, and a toy model on its vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self.viability = Viability.from_tokenizer(tokenizer)
        self.judge = Judge(Definition(tokenizer))
        size = len(self.viability.vocab.token_bytes)
        base = np.random.default_rng(7).standard_normal(size) * 3
        self._base = np.exp(base) / np.exp(base).sum()
        self._rank = np.asarray(self.viability.prefix_index.order)
        self.eot = min(self.judge.definition.special)
        self._weights: dict[Ids, float] = {(): 1.0}

    def probs(self, ids: Ids) -> np.ndarray:
        """The distribution after a sequence, in id order: one distribution, turned by a hash of the sequence."""
        turn = int.from_bytes(hashlib.blake2b(repr(ids).encode(), digest_size=4).digest(), "little")
        return np.roll(self._base, turn % len(self._base))

    def in_byte_order(self, ids: Ids) -> np.ndarray:
        return np.asarray(self.probs(ids)[self._rank])

    def weight(self, ids: Ids) -> float:
        """P(ids): the chain rule."""
        if ids not in self._weights:
            self._weights[ids] = self.weight(ids[:-1]) * float(self.probs(ids[:-1])[ids[-1]])
        return self._weights[ids]


@pytest.fixture(scope="module", params=REAL)
def subject(request: pytest.FixtureRequest, load_tokenizer: Callable[[str], Any]) -> Subject:
    return Subject(load_tokenizer(request.param))


@pytest.fixture(scope="module")
def smol(load_tokenizer: Callable[[str], Any]) -> Subject:
    return Subject(load_tokenizer("smollm2"))


def ids_of(nodes: Sequence[Node]) -> set[Ids]:
    return {tuple(node.token_ids) for node in nodes}


def shown_nodes(subject: Subject, text: str, size: int) -> dict[int, set[Ids]]:
    """The boundary nodes at every prefix of a text that its encoding, and those of its longer forms, show."""
    shown: dict[int, set[Ids]] = {n: set() for n in range(size + 1)}
    for reading in subject.judge.definition.readings([text + y for y in FOLLOWING]):
        if reading is None:
            continue
        k = 0
        for n in range(size + 1):
            while k < len(reading.ends) and reading.ends[k] <= n:
                k += 1
            if k < len(reading.ends):
                shown[n].add(reading.ids[:k])
    return shown


def check_complete(subject: Subject, text: str) -> None:
    """Every node that an encoding shows is there."""
    data = text.encode()
    shown = shown_nodes(subject, text, len(data))
    cover = Cover.empty(subject.viability)
    for n in range(len(data) + 1):
        cover = cover.advance(data[n - 1 : n]) if n else cover

        assert shown[n] <= ids_of(cover.nodes), data[:n]


def check_disjoint_and_minimal(subject: Subject, text: str) -> None:
    """No member begins another, and every member's last token holds the last byte and begins with the leftover."""
    data = text.encode()
    prefix_index = subject.viability.prefix_index
    cover = Cover.empty(subject.viability)
    for n in range(1, len(data) + 1):
        cover = cover.advance(data[n - 1 : n])
        nodes = {tuple(node.token_ids): node for node in cover.nodes}

        assert len(nodes) == len(cover.nodes), data[:n]
        for ids, node in nodes.items():
            leftover = cover.leftover(node)
            low, high, mask = cover.viable(node)
            longer = [
                i for i in range(low, min(high, low + 50)) if mask[i - low] and prefix_index.spelled[i] != leftover
            ]

            assert all(prefix_index.spelled[i].startswith(leftover) for i in longer), data[:n]
            # A node has some token that goes beyond the prefix; one that spells the prefix may also just end there.
            spelled = [i for i in range(low, high) if mask[i - low] and len(prefix_index.spelled[i]) > len(leftover)]
            assert spelled or not leftover, data[:n]
            # What an ancestor that is itself a node goes on with, towards this one, is shorter than its leftover.
            for k in range(len(ids)):
                if ids[:k] in nodes:
                    step = subject.viability.vocab.token_bytes[ids[k]] or b""

                    assert len(step) <= len(cover.leftover(nodes[ids[:k]])), data[:n]


def check_sound(subject: Subject, text: str, rng: np.random.Generator) -> None:
    """What is claimed viable is shown so by the encoding of some text: three tokens of every node, at random."""
    data = text.encode()
    prefix_index = subject.viability.prefix_index
    cover = Cover.empty(subject.viability)
    claimed: dict[Ids, bool] = {}
    for n in range(len(data) + 1):
        cover = cover.advance(data[n - 1 : n]) if n else cover
        for node in cover.nodes:
            low, _, mask = cover.viable(node)
            viable = np.flatnonzero(mask)
            for i in rng.choice(viable, min(3, len(viable)), replace=False) if len(viable) else ():
                claimed[(*node.token_ids, int(prefix_index.order[low + i]))] = True
    shown = subject.judge.viable(claimed, claimed)

    assert set(claimed) == set(shown), text


def check_mass(subject: Subject, text: str) -> None:
    """P(x) = Σ P(x·b) + P(x, EOT) + leak, the leak being what the nodes that spell x put on tokens that may not follow."""
    data = text.encode()
    cover = Cover.empty(subject.viability)
    before = 1.0
    for n in range(len(data) + 1):
        cover = cover.advance(data[n - 1 : n]) if n else cover
        endings = ids_of(cover.ending)
        joint, end, leak = np.zeros(256), 0.0, 0.0
        for node in cover.nodes:
            ids = tuple(node.token_ids)
            masses = cover.masses(node, RankedArray(subject.in_byte_order(ids)))
            joint += subject.weight(ids) * masses
            if not cover.leftover(node) or not n:
                # Tokens are left, ended by the end of text, or lost. At the empty prefix the hidden space may be a token.
                low, high, mask = cover.viable(node)
                kept = float(subject.in_byte_order(ids)[low:high][mask].sum())
                ended = float(subject.probs(ids)[subject.eot]) if ids in endings else 0.0
                end += subject.weight(ids) * ended
                leak += subject.weight(ids) * (1.0 - kept - ended)
        after = float(joint[data[n]]) if n < len(data) else 0.0
        assert before == pytest.approx(float(joint.sum()) + end + leak, rel=1e-6), data[:n]
        assert leak >= -1e-9 * before, data[:n]
        before = after


@pytest.mark.parametrize("name", HOSTILE)
def test_covers_are_complete(subject: Subject, name: str) -> None:
    """After every byte, each node that the encodings of the text and of its continuations pass through is in the cover."""
    check_complete(subject, HOSTILE[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_covers_are_disjoint_and_minimal(subject: Subject, name: str) -> None:
    """After every byte, no member of the cover begins another, and none has a token too many."""
    check_disjoint_and_minimal(subject, HOSTILE[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_mass_is_conserved(subject: Subject, name: str) -> None:
    """After every byte, P(x) is the mass of the bytes that may follow, of the end of text, and of the leak."""
    check_mass(subject, HOSTILE[name])


@pytest.mark.parametrize("name", HOSTILE)
def test_claims_are_sound(subject: Subject, name: str) -> None:
    """After every byte, tokens that a node claims viable are shown so by some text that the tokenizer encodes."""
    check_sound(subject, HOSTILE[name], np.random.default_rng(len(name)))


@pytest.mark.parametrize("name", HOSTILE)
def test_advancing_byte_by_byte_is_advancing_at_once(subject: Subject, name: str) -> None:
    """A cover that came byte by byte holds the same nodes as one that came in one step."""
    data = HOSTILE[name].encode()
    cover = Cover.empty(subject.viability)
    for n in range(1, len(data) + 1):
        cover = cover.advance(data[n - 1 : n])
        if n % 5 == 0 or n == len(data):
            assert ids_of(cover.nodes) == ids_of(Cover.empty(subject.viability).advance(data[:n]).nodes)


@pytest.mark.parametrize("name", CHANGING)
def test_text_that_is_changed_is_refused_where_it_changes(subject: Subject, name: str) -> None:
    """A prefix is unreachable from the first byte at which no continuation of it is left as it is by the tokenizer."""
    data = CHANGING[name].encode()
    cover = Cover.empty(subject.viability)
    for n in range(1, len(data) + 1):
        found = subject.judge.find(data[:n], pairs=50, wide=10, each=3)
        if found.nodes or found.ending is not None:
            cover = cover.advance(data[n - 1 : n])
            continue
        with pytest.raises(UnreachablePrefixError) as caught:
            cover.advance(data[n - 1 : n])

        assert caught.value.position == n - 1
        return


NODES = vars(Cover)["nodes"].fget
EXTEND = Viability.extend
MASK = Viability.mask
BELOW = Branch.below


def drops_the_oldest(cover: Cover) -> tuple[Node, ...]:
    nodes: tuple[Node, ...] = NODES(cover)
    return nodes[1:] if len(nodes) > 1 else nodes


def drops_the_newest(cover: Cover) -> tuple[Node, ...]:
    nodes: tuple[Node, ...] = NODES(cover)
    return nodes[:-1] if len(nodes) > 1 else nodes


def keeps_only_the_canonical(viability: Viability, boundary: Boundary, token: int) -> Boundary | None:
    made = EXTEND(viability, boundary, token)
    return made if made is not None and viability.ends_text(made) else None


def calls_every_pair_unbroken(viability: Viability, boundary: Boundary, lo: int, hi: int) -> np.ndarray:
    return np.ones(hi - lo, np.bool_)


def forgets_one_token_in_eight(viability: Viability, boundary: Boundary, lo: int, hi: int) -> np.ndarray:
    made = MASK(viability, boundary, lo, hi).copy()
    made[::8] = False
    return made


def takes_exact_for_longer(branch: Branch, byte: int) -> Branch | None:
    found = copy.copy(BELOW(branch, byte))
    if found is not None:
        found.longer = found.lo
    return found


MUTANTS: dict[str, tuple[type, str, Any]] = {
    "drops-the-oldest": (Cover, "nodes", property(drops_the_oldest)),
    "drops-the-newest": (Cover, "nodes", property(drops_the_newest)),
    "keeps-only-the-canonical": (Viability, "extend", keeps_only_the_canonical),
    "calls-every-pair-unbroken": (Viability, "mask", calls_every_pair_unbroken),
    "forgets-one-token-in-eight": (Viability, "mask", forgets_one_token_in_eight),
    "takes-exact-for-longer": (Branch, "below", takes_exact_for_longer),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_code_is_seen(smol: Subject, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these mistakes, made by hand in the cover, fails one of the checks above."""
    owner, attribute, mutant = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, mutant)
    monkeypatch.delitem(vars(smol.viability), attribute, raising=False)  # answers that it keeps (kept.py)
    text = "return a + b\n\n\nprint('x')  #"

    with pytest.raises((AssertionError, UnreachablePrefixError, IndexError, ValueError)):
        check_complete(smol, text)
        check_disjoint_and_minimal(smol, text)
        check_mass(smol, text)
        check_sound(smol, text, np.random.default_rng(0))
