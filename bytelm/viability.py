"""Which token sequences a tokenizer can emit.

Definition
    A sequence u is *viable* if it is a prefix of some canonical sequence: for some text y to come, encoding the bytes of u
    followed by y gives a sequence that begins with u. It is *canonical* if y may be empty.

Theory of operation
    A boundary between two tokens is either a cut of the pre-tokenizer (then any pair will do) or lies inside a pre-token (then
    the pair has to be unbroken, merges.py). No token spans a cut. So a sequence is viable if and only if the boundaries can be
    claimed to be cuts or not in such a way that some text to come makes the claims right (splits.py, walks.py).
    A `Boundary` holds the claims that are still possible, as `Path`s: nearly always one.

    On top of that, family by family:
     - added tokens are matched before everything else and only then (a level of their own in walks.py);
     - with ``ignore_merges`` a whole pre-token that is in the vocabulary is one token, so a token that merging cannot reach stands
       only as a whole pre-token, and merged tokens that spell such a one together have to be followed by more of the same pre-token;
     - byte tokens of a sentencepiece vocabulary spell characters that the vocabulary lacks, and only those;
     - a normal form leaves the text alone or the text has no canonical sequence (normal.py).

Cost
    The viable right neighbours of a boundary, all tokens at once: the conjunction of a few cached bit sets. One neighbour: a walk
    over its bytes.

Source
    Our viable is the closure under prefixes of Phan's valid encodings; Hayase's valid covering tree keeps to canonical sequences.
"""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Int64

from bytelm.cache import cache_folder, read_bytes, write_bytes
from bytelm.merges import Merges
from bytelm.normal import NormalForm
from bytelm.patterns import CODE_POINTS, Pattern, Spelling, compile_pattern, literals_pattern
from bytelm.splits import LOST, SKIP, Level
from bytelm.trie import Trie
from bytelm.vocab import SPACE_MARK, AddedToken, Vocab, byte_token, decode_added, read_vocab
from bytelm.walks import INACTIVE, Nodes, Walker, unfinished

if TYPE_CHECKING:
    from bytelm.cover import Cover

_TREES_VERSION: Final = 2
_KEPT: Final = 256


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
        self.form = NormalForm(vocab.form) if vocab.form else None
        self.merges = _merges(vocab, self.trie)
        self._reachable = self.merges.reachable[self.trie.order]
        self._spells: dict[int, int] = {}  # added token -> the level that matches it
        levels = self._levels()
        self._is_byte = self._byte_ranks()
        ordinary = self._reachable.copy()
        ordinary[self._whole_ranks] = True
        self.walker = Walker(levels, self.trie, ordinary=ordinary, outside=self._outside())
        self._byte_known: dict[tuple[bool, tuple[Path, ...], bytes], Bool[np.ndarray, " n"]] = {}

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> Viability:
        """Read a transformers fast tokenizer or a ``tokenizers.Tokenizer``.

        Raises:
            UnsupportedTokenizerError: It cannot be a byte model; the message names the step.
        """
        return cls(read_vocab(tokenizer))

    def cover(self, *, lead: bool = True) -> Cover:
        """The cover of the empty prefix; ``lead``: the tokenizer's hidden leading space applies."""
        from bytelm.cover import Cover

        return Cover.empty(self, lead=lead)

    # --- construction ------------------------------------------------------------------------------------------------

    @cached_property
    def _merged_ids(self) -> frozenset[int]:
        return frozenset(self.vocab.pieces.values())

    @cached_property
    def _forbidden(self) -> Bool[np.ndarray, " points"]:
        forbidden = np.zeros(CODE_POINTS, np.bool_)
        forbidden[0xD800:0xE000] = True
        if self.vocab.family == "sentencepiece":
            forbidden[ord(SPACE_MARK)] = True
        if self.form:
            forbidden |= self.form.changed
        if missing := self.vocab.missing_bytes:
            for point in np.flatnonzero(~forbidden).tolist():
                forbidden[point] = not missing.isdisjoint(chr(point).encode())
        return forbidden

    def _levels(self) -> list[Level]:
        vocab = self.vocab
        alias = {0x20: ord(SPACE_MARK)} if vocab.family == "sentencepiece" else {}
        groups = [[t for t in vocab.added if not t.normalized], [t for t in vocab.added if t.normalized]]
        levels = []
        for normalized, group in enumerate(groups):
            if normalized and not group:
                continue
            pattern = self._added_pattern(group, len(levels), opens=not normalized)
            levels.append(Level(pattern, behavior="Added", invert=False, alias=alias if normalized else {}, forbidden=self._forbidden))
        for step in vocab.steps:
            pattern = compile_pattern(step.pattern, classes=step.classes)
            levels.append(Level(pattern, behavior=step.behavior, invert=step.invert, alias=alias, forbidden=self._forbidden))
        return levels

    def _added_pattern(self, group: list[AddedToken], at: int, *, opens: bool) -> Pattern:
        spellings: dict[str, Spelling] = {}
        for token in group:
            content = token.content
            if token.normalized and self.vocab.source.normalizer is not None:
                content = self.vocab.source.normalizer.normalize_str(content)
            data = self.vocab.token_bytes[token.id]
            spelled = content.replace(SPACE_MARK, " ") if token.normalized and self.vocab.family == "sentencepiece" else content
            if token.special:
                spellings[content] = Spelling(SKIP)
            elif data is None or data != spelled.encode() or data != decode_added(token.content, self.vocab.family):
                spellings[content] = Spelling(LOST)
            else:
                spellings[content] = Spelling(token.id, token.single_word, token.lstrip, token.rstrip)
                self._spells[token.id] = at
        opening, reopening = self.vocab.opening if opens else "", self.vocab.reopening
        if opens:  # this level sees the text before spaces become ▁
            opening, reopening = opening.replace(SPACE_MARK, " "), reopening.replace(SPACE_MARK, " ")
        return literals_pattern(spellings, skip=SKIP, lost=LOST, opening=opening, reopening=reopening)

    def _byte_ranks(self) -> Bool[np.ndarray, " tokens"]:
        out = np.zeros(len(self.trie), np.bool_)
        if self.vocab.family == "sentencepiece":
            out[self.trie.rank[[i for piece, i in self.vocab.pieces.items() if byte_token(piece) is not None]]] = True
        return out

    def _outside(self) -> Bool[np.ndarray, " points"] | None:
        if self.vocab.family == "byte-level":
            return None
        outside = ~self._forbidden
        points = [ord(piece) for piece in self.vocab.pieces if len(piece) == 1]
        outside[points] = False
        outside[0x20] = SPACE_MARK not in self.vocab.pieces
        return outside

    @cached_property
    def _wholes(self) -> dict[bytes, list[int]]:
        """Spellings that only a whole pre-token can have, with ``ignore_merges``."""
        out: dict[bytes, list[int]] = {}
        if self.vocab.ignore_merges:
            for piece, token in self.vocab.pieces.items():
                if not self.merges.reachable[token] and (data := self.vocab.spell_piece(piece)) is not None:
                    tokens = out.setdefault(data, [])
                    if self.vocab.token_bytes[token] is not None:  # else taken whole it is a special token: spell it otherwise
                        tokens.append(token)
        return out

    @cached_property
    def _whole_prefixes(self) -> frozenset[bytes]:
        return frozenset(data[:i] for data in self._wholes for i in range(1, len(data) + 1))

    # --- one token ---------------------------------------------------------------------------------------------------

    def start(self, *, lead: bool = True) -> Boundary:
        """The boundary before the first token; ``lead``: at the start of a text rather than after a token given by id."""
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
            if not self._keeps(boundary.tail, text, partial):
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
            if self._path_settled(path, partial):
                yield path

    def _path_settled(self, path: Path, partial: bytes) -> bool:
        if path.sealed:
            return self.walker.settled(path.nodes, partial, "cut")
        if path.word is not None and path.word in self._wholes:
            return self.walker.settled(path.nodes, partial, "stay")
        return self.walker.settled(path.nodes, partial)

    def _grow(self, word: bytes | None, data: bytes) -> bytes | None:
        if word is None:
            return None
        grown = word + data
        return grown if grown in self._whole_prefixes else None

    def _options(self, boundary: Boundary) -> Iterator[tuple[Nodes, bytes | None, bool]]:
        """Where a token may begin: the nodes to walk from, the pre-token so far, and whether there is a cut before it."""
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
        if at is None or boundary.partial:
            return
        tracked = b"" if self._wholes else None
        for path in boundary.paths:
            if path.sealed or path.word is None or path.word not in self._wholes or INACTIVE in path.nodes:
                nodes = self.walker.added(None if boundary.last < 0 else path.nodes, at, data, token)
                if nodes is not None and self.walker.settled(nodes):
                    yield Path(nodes, tracked)

    def _spells_characters(self, boundary: Boundary, token: int, data: bytes, partial: bytes) -> bool:
        """Sentencepiece: byte tokens spell characters that the vocabulary lacks, the other tokens whole characters."""
        outside = self.walker.outside
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
        if self.walker.outside is not None:
            if boundary.partial:
                out[:] = False
            else:
                out &= ~self._is_byte[lo:hi]
            self._byte_mask(boundary, out, lo, hi)
        if self.form:
            self._normal_mask(boundary, out, lo, hi)
        self._ask_wholes(boundary, out, lo, hi)
        if not boundary.partial:
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
        if last - first <= 4:  # noqa: PLR2004 - below this, asking one by one is faster
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
        if len(ranks) <= 32:  # noqa: PLR2004 - below this, asking one by one is faster
            for rank in ranks.tolist():
                token = int(self.trie.order[rank])
                out[rank - lo] = any(True for _ in self._as_added(boundary, token, self.trie.spelled[rank]))
            return out
        for path in boundary.paths:
            if not (path.sealed or path.word is None or path.word not in self._wholes or INACTIVE in path.nodes):
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

    # --- normal forms ------------------------------------------------------------------------------------------------

    def _keeps(self, tail: str, text: str, partial: bytes) -> bool:
        """Whether the normal form leaves ``tail + text`` alone and some completion of ``partial`` after it."""
        form = self.form
        if form is None or not (form.keeps(tail + text) if text else True):
            return form is None
        if not partial:
            return True
        window = form.window(tail + text)
        return any(form.keeps(window + data.decode()) for data in self._completions(partial))

    def _completions(self, partial: bytes) -> Iterator[bytes]:
        sizes = range(1, 4)
        missing = next(n for n in sizes if len(partial) + n == (2 if partial[0] < 0xE0 else 3 if partial[0] < 0xF0 else 4))  # noqa: PLR2004
        for code in range(64**missing):
            data = partial + bytes(0x80 | code >> 6 * i & 0x3F for i in reversed(range(missing)))
            try:
                point = ord(data.decode())
            except UnicodeDecodeError:
                continue
            if not self._forbidden[point]:
                yield data

    @cached_property
    def _touchy_ranks(self) -> Int64[np.ndarray, " n"]:
        """Tokens that a normal form may combine with what comes before them, or that it changes by themselves."""
        form = self.form
        if form is None:
            return np.zeros(0, np.int64)
        out = []
        for rank, data in enumerate(self.trie.spelled):
            if data.isascii():
                continue
            text = data.decode("utf-8", "replace")
            if 0x80 <= data[0] < 0xC0 or text[:1] == "\ufffd" or not form.inert[ord(text[0])] or unfinished(data) or not form.keeps(text):  # noqa: PLR2004
                out.append(rank)
        return np.array(out, np.int64)

    def _normal_mask(self, boundary: Boundary, out: Bool[np.ndarray, " n"], lo: int, hi: int) -> None:
        ranks = self._touchy_ranks
        ranks = ranks[np.searchsorted(ranks, lo) : np.searchsorted(ranks, hi)]
        for rank in ranks[out[ranks - lo]].tolist():
            whole = boundary.partial + self.trie.spelled[rank]
            partial = unfinished(whole)
            text = whole[: len(whole) - len(partial)].decode("utf-8", "replace")
            out[rank - lo] = self._keeps(boundary.tail, text, partial)


def _merges(vocab: Vocab, trie: Trie) -> Merges:
    """The merge trees, from disk where this vocabulary was read before."""
    pieces = vocab.pieces
    base = [i for piece, i in pieces.items() if len(piece) == 1 or byte_token(piece) is not None]
    table = [(pieces[a], pieces[b], pieces[a + b]) for a, b in vocab.merges]
    lengths = [0] * len(vocab)
    for piece, i in pieces.items():
        lengths[i] = len(piece)
    digest = hashlib.sha256(repr((_TREES_VERSION, len(vocab), base)).encode())
    digest.update(np.array(table, np.int64).tobytes())
    folder = cache_folder("merge-trees")
    path = folder / f"{digest.hexdigest()[:32]}.npy" if folder else None
    trees = None
    if (kept := read_bytes(path)) is not None:
        try:
            trees = np.load(io.BytesIO(kept), allow_pickle=False).astype(np.int64)
            trees = trees if trees.shape == (4, len(vocab)) else None
        except (ValueError, OSError, EOFError):
            trees = None
    merges = Merges(size=len(vocab), base=base, merges=table, lengths=lengths, trie=trie, trees=trees)
    if trees is None:
        buffer = io.BytesIO()
        np.save(buffer, merges.trees.astype(np.int32), allow_pickle=False)
        write_bytes(path, buffer.getvalue())
    return merges
