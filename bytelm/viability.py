"""Which token sequences a tokenizer can emit.

Definition
    A sequence u is *viable* if it is a prefix of some canonical sequence: for some text y to come, encoding the bytes
    of u followed by y gives a sequence that begins with u. It is *canonical* if y may be empty.

Theory of operation
    A boundary between two tokens is either a cut of the pre-tokenizer (then any pair will do) or lies inside a
    pre-token (then the pair has to be unbroken, merges.py). No token spans a cut. So a sequence is viable if and only
    if the boundaries can be claimed to be cuts or not in such a way that some text to come makes the claims right
    (splits.py, walks.py). A `Boundary` holds the claims that are still possible, as `Path`s: nearly always one.

    On top of that, family by family:
     - added tokens are matched before everything else and only then (a level of their own in walks.py);
     - with ``ignore_merges`` a whole pre-token that is in the vocabulary is one token, so a token that merging cannot
       reach stands only as a whole pre-token, and merged tokens that spell such a one together have to be followed by
       more of the same pre-token;
     - byte tokens of a sentencepiece vocabulary spell characters that the vocabulary lacks, and only those;
     - a normal form leaves the text alone or the text has no canonical sequence (normal.py).

Cost
    The viable right neighbours of a boundary, all tokens at once: the conjunction of a few cached bit sets. One
    neighbour: a walk over its bytes.

Source
    Our viable is the closure under prefixes of Phan's valid encodings; Hayase's valid covering tree keeps to
    canonical sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from bytelm.added_tokens import added_pattern
from bytelm.characters import forbidden_points, outside_points
from bytelm.completions import Completions
from bytelm.merges import read_merges
from bytelm.normal import NormalForm
from bytelm.patterns import compile_pattern
from bytelm.pipeline import read_vocab
from bytelm.splits import Level
from bytelm.trie import Trie, unfinished
from bytelm.vocab import SPACE_MARK, Vocab, byte_token
from bytelm.walks import INACTIVE, Nodes, Walker


@dataclass(frozen=True, slots=True)
class Path:
    """One way in which the boundaries so far may be cuts or not.

    Attributes:
        nodes: Where each level of the pre-tokenizer stands.
        word: The pre-token so far, where the vocabulary holds whole pre-tokens beginning so that merging cannot reach.
        sealed: The pre-token was such a one, taken whole: a cut has to follow.
    """

    nodes: Nodes
    word: bytes | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of a viable token sequence: what decides which tokens may follow.

    Attributes:
        last: The last token, -1 before the first.
        paths: The claims that are still possible.
        partial: The bytes of a character that is not yet complete.
        tail: The characters that a normal form may still combine with what follows.
    """

    last: int
    paths: tuple[Path, ...]
    partial: bytes = b""
    tail: str = ""


class Viability:
    """Decides which token sequences one tokenizer can emit.

    Attributes:
        vocab: The tokenizer, read.
        trie: Its tokens in byte order.
        merges: Its merge trees.
        form: Its normal form, or None.
    """

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self.trie = Trie(vocab.token_bytes)
        self._forbidden = forbidden_points(vocab)
        self.form = NormalForm(vocab.form, self.trie, self._forbidden) if vocab.form else None
        self.merges = read_merges(vocab, self.trie)
        self._reachable = self.merges.reachable[self.trie.order]
        self._spells: dict[int, int] = {}  # added token -> the level that matches it
        levels = self._levels()
        self._is_byte = self._byte_ranks()
        ordinary = self._reachable.copy()
        ordinary[self._whole_ranks] = True
        self._outside = outside_points(vocab, self._forbidden)
        completions = Completions(self.trie, self.merges, self._outside)
        self.walker = Walker(levels, self.trie, ordinary=ordinary, completions=completions)
        self._byte_known: dict[tuple[bool, tuple[Path, ...], bytes], Bool[np.ndarray, " n"]] = {}

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> Viability:
        """Read a transformers fast tokenizer or a ``tokenizers.Tokenizer``.

        Raises:
            UnsupportedTokenizerError: It cannot be a byte model; the message names the step.
        """
        return cls(read_vocab(tokenizer))

    # --- construction ------------------------------------------------------------------------------------------------

    @cached_property
    def _merged_ids(self) -> frozenset[int]:
        return frozenset(self.vocab.pieces.values())

    def _levels(self) -> list[Level]:
        vocab = self.vocab
        alias = {0x20: ord(SPACE_MARK)} if vocab.family == "sentencepiece" else {}
        groups = [[t for t in vocab.added if not t.normalized], [t for t in vocab.added if t.normalized]]
        levels: list[Level] = []
        for normalized, group in enumerate(groups):
            if normalized and not group:
                continue
            pattern, emitted = added_pattern(vocab, group, opens=not normalized)
            self._spells |= dict.fromkeys(emitted, len(levels))
            levels.append(
                Level(
                    pattern,
                    behavior="Added",
                    invert=False,
                    alias=alias if normalized else {},
                    forbidden=self._forbidden,
                )
            )
        for step in vocab.steps:
            pattern = compile_pattern(step.pattern, classes=step.classes)
            levels.append(
                Level(pattern, behavior=step.behavior, invert=step.invert, alias=alias, forbidden=self._forbidden)
            )
        return levels

    def _byte_ranks(self) -> Bool[np.ndarray, " tokens"]:
        out = np.zeros(len(self.trie), np.bool_)
        if self.vocab.family == "sentencepiece":
            out[self.trie.rank[[i for piece, i in self.vocab.pieces.items() if byte_token(piece) is not None]]] = True
        return out

    @cached_property
    def _wholes(self) -> dict[bytes, list[int]]:
        """Spellings that only a whole pre-token can have, with ``ignore_merges``."""
        out: dict[bytes, list[int]] = {}
        if self.vocab.ignore_merges:
            for piece, token in self.vocab.pieces.items():
                if not self.merges.reachable[token] and (data := self.vocab.spell_piece(piece)) is not None:
                    tokens = out.setdefault(data, [])
                    if (
                        self.vocab.token_bytes[token] is not None
                    ):  # else taken whole it is a special token: spell it otherwise
                        tokens.append(token)
        return out

    @cached_property
    def _whole_prefixes(self) -> frozenset[bytes]:
        return frozenset(data[:i] for data in self._wholes for i in range(1, len(data) + 1))

    # --- one token ---------------------------------------------------------------------------------------------------

    def start(self, *, lead: bool = True) -> Boundary:
        """The boundary before the first token; ``lead``: at the start of a text, not after a token given by id."""
        return Boundary(-1, (Path(self.walker.start(bare=not lead), b"" if self._wholes else None),))

    def extend(self, boundary: Boundary, token: int) -> Boundary | None:
        """The boundary after one more token, or None where the longer sequence is not viable."""
        data = self.vocab.token_bytes[token]
        if data is None:
            return None
        tail, whole = boundary.tail, boundary.partial + data
        partial = unfinished(whole)
        if self.form:
            text = whole[: len(whole) - len(partial)].decode("utf-8", "replace")
            if not self.form.keeps_with(boundary.tail, text, partial):
                return None
            tail = self.form.window(boundary.tail + text)
        found = [*self._ordinary(boundary, token, data, partial), *self._as_added(boundary, token, data)]
        return Boundary(token, tuple(dict.fromkeys(found)), partial, tail) if found else None

    def _ordinary(self, boundary: Boundary, token: int, data: bytes, partial: bytes) -> Iterator[Path]:
        if token not in self._merged_ids:
            return
        if not self._spells_characters(boundary, token, data, partial):
            return
        reached = bool(self.merges.reachable[token])
        for nodes, word, is_cut in self._options(boundary):
            grown = self._grow(word, data)
            if not reached and not (is_cut and data in self._wholes and not partial):
                continue
            if not is_cut and not self.merges.unbroken(boundary.last, token):
                continue
            after = self.walker.walk(nodes, data)
            if after is None:
                continue
            path = Path(after, grown, sealed=not reached)
            if self._path_settled(path, token, partial):
                yield path

    def _path_settled(self, path: Path, token: int, partial: bytes) -> bool:
        if path.sealed:
            return self.walker.settled(path.nodes, token, partial, "cut")
        if path.word is not None and path.word in self._wholes:
            return self.walker.settled(path.nodes, token, partial, "stay")
        return self.walker.settled(path.nodes, token, partial)

    def _grow(self, word: bytes | None, data: bytes) -> bytes | None:
        if word is None:
            return None
        grown = word + data
        return grown if grown in self._whole_prefixes else None

    def _options(self, boundary: Boundary) -> Iterator[tuple[Nodes, bytes | None, bool]]:
        """Where a token may begin: the nodes to walk from, the pre-token so far, whether there is a cut before."""
        tracked = b"" if self._wholes else None
        if boundary.last < 0:
            yield boundary.paths[0].nodes, tracked, True
            return
        for path in boundary.paths:
            if not path.sealed and INACTIVE not in path.nodes:
                yield path.nodes, path.word, False
            if not boundary.partial and (path.sealed or path.word is None or path.word not in self._wholes):
                for nodes in self.walker.cuts(path.nodes):
                    yield nodes, tracked, True

    def _as_added(self, boundary: Boundary, token: int, data: bytes) -> Iterator[Path]:
        at = self._spells.get(token)
        if at is None or boundary.partial or (boundary.last < 0 and self._begins_with_lead(boundary)):
            return
        tracked = b"" if self._wholes else None
        for path in boundary.paths:
            if path.sealed or path.word is None or path.word not in self._wholes:
                nodes = self.walker.added(None if boundary.last < 0 else path.nodes, at, data, token)
                if nodes is not None and self.walker.settled(nodes):
                    yield Path(nodes, tracked)

    def _begins_with_lead(self, boundary: Boundary) -> bool:
        """Whether a boundary is the start of a text with a hidden leading space, which no added token spells."""
        return bool(self.vocab.lead) and boundary.paths[0].nodes == self.walker.start(bare=False)

    def _spells_characters(self, boundary: Boundary, token: int, data: bytes, partial: bytes) -> bool:
        """Sentencepiece: byte tokens spell characters that the vocabulary lacks, the other tokens whole characters."""
        outside = self._outside
        if outside is None:
            return True
        if not self._is_byte[self.trie.rank[token]]:
            return not boundary.partial
        whole = boundary.partial + data
        if partial:
            return partial == whole
        try:
            return bool(outside[ord(whole.decode())])
        except (UnicodeDecodeError, TypeError):
            return False

    def ends_text(self, boundary: Boundary) -> bool:
        """Whether the sequence is canonical: the text may end here."""
        if boundary.partial:
            return False
        if boundary.last < 0:
            return True
        return any(
            (path.sealed or path.word is None or path.word not in self._wholes) and self.walker.ends(path.nodes)
            for path in boundary.paths
        )

    # --- all tokens --------------------------------------------------------------------------------------------------

    def mask(self, boundary: Boundary, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of a range of ranks may follow: `extend` for all of them at once."""
        out = np.zeros(hi - lo, np.bool_)
        if hi <= lo:
            return out
        for nodes, _, is_cut in self._options(boundary):
            fits = self.walker.fits(nodes, boundary.partial, lo, hi)
            out |= fits if is_cut else fits & self.merges.unbroken_range(boundary.last, lo, hi)
        out &= self._reachable[lo:hi]
        if self._outside is not None:
            if boundary.partial:
                out[:] = False
            else:
                out &= ~self._is_byte[lo:hi]
            self._byte_mask(boundary, out, lo, hi)
        if self.form:
            self.form.narrow(out, lo, hi, tail=boundary.tail, partial=boundary.partial)
        self._ask_wholes(boundary, out, lo, hi)
        if not boundary.partial and not (boundary.last < 0 and self._begins_with_lead(boundary)):
            for at in sorted(set(self._spells.values())):
                out |= self._added_mask(boundary, at, lo, hi)
        return out

    def _ask(self, boundary: Boundary, out: Bool[np.ndarray, " n"], where: Int64[np.ndarray, " k"], lo: int) -> None:
        for i in where.tolist():
            out[i] = self.extend(boundary, int(self.trie.order[lo + i])) is not None

    def _byte_mask(self, boundary: Boundary, out: Bool[np.ndarray, " n"], lo: int, hi: int) -> None:
        """Byte tokens, which no merge uses: what decides about them is the same at nearly every place."""
        ranks = self._byte_rank_list
        first, last = np.searchsorted(ranks, (lo, hi))
        if last - first <= 4:
            self._ask(boundary, out, ranks[first:last] - lo, lo)
            return
        key = (boundary.last < 0, boundary.paths, boundary.partial)
        known = self._byte_known.get(key)
        if known is None:
            order = self.trie.order
            known = np.array([self.extend(boundary, int(order[rank])) is not None for rank in ranks.tolist()], np.bool_)
            self._byte_known[key] = known
        out[ranks[first:last] - lo] = known[first:last]

    @cached_property
    def _byte_rank_list(self) -> Int64[np.ndarray, " n"]:
        return np.flatnonzero(self._is_byte)

    def _ask_wholes(self, boundary: Boundary, out: Bool[np.ndarray, " n"], lo: int, hi: int) -> None:
        """Tokens that complete, or are, a pre-token that is only ever taken whole: few, asked one by one."""
        if not self._wholes:
            return
        ranks = self._whole_ranks
        own = ranks[np.searchsorted(ranks, lo) : np.searchsorted(ranks, hi)] - lo
        self._ask(boundary, out, own, lo)
        for word in {path.word for path in boundary.paths if path.word}:
            for data in self._wholes_from(word):
                first, last = self.trie.range(data[len(word) :], 0, len(self.trie))
                last = self.trie.equal_to(data[len(word) :], first, last)
                self._ask(boundary, out, np.arange(max(first, lo), min(last, hi)) - lo, lo)

    @cached_property
    def _whole_ranks(self) -> Int64[np.ndarray, " n"]:
        tokens = [token for tokens in self._wholes.values() for token in tokens]
        return np.sort(self.trie.rank[np.array(tokens, np.int64)]).astype(np.int64)

    def _wholes_from(self, word: bytes) -> list[bytes]:
        return [data for data in self._wholes if len(data) > len(word) and data.startswith(word)]

    def _added_mask(self, boundary: Boundary, at: int, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        out = np.zeros(hi - lo, np.bool_)
        ranks = self._added_ranks[at]
        first, last = np.searchsorted(ranks, (lo, hi))
        ranks = ranks[first:last]
        if len(ranks) <= 32:
            for rank in ranks.tolist():
                token = int(self.trie.order[rank])
                out[rank - lo] = any(True for _ in self._as_added(boundary, token, self.trie.spelled[rank]))
            return out
        for path in boundary.paths:
            if not (path.sealed or path.word is None or path.word not in self._wholes):
                continue
            fits = self.walker.added_fits(None if boundary.last < 0 else path.nodes, at, self._added_ranks[at])
            out[ranks - lo] |= fits[first:last]
        return out

    @cached_property
    def _added_ranks(self) -> dict[int, Int64[np.ndarray, " n"]]:
        levels = set(self._spells.values())
        return {
            at: np.sort(self.trie.rank[[t for t, level in self._spells.items() if level == at]]).astype(np.int64)
            for at in levels
        }
