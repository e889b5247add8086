"""Which token sequences a tokenizer can emit.

Definition
    A sequence u is *viable* if it is a prefix of some canonical sequence: for some text y to come, encoding the bytes
    of u followed by y gives a sequence that begins with u. It is *canonical* if y may be empty.

Theory of operation
    A boundary between two tokens is either a cut of the pre-tokenizer (then any pair will do) or lies inside a
    pre-token (then the pair has to be unbroken, tokenizer/bpe.py). No token spans a cut. So a sequence is viable if and
    only if each of its boundaries can be taken for a cut or for none in such a way that some text to come agrees
    (tokenizer/split/automaton.py, tokenizer/split/vocab_walk.py, text_futures.py, token_futures.py). A `Boundary` holds
    the ways in which that is still possible, as `Path`s: nearly always one.

    On top of that, family by family:
     - added tokens are matched before everything else and only then (a level of their own in
       tokenizer/split/vocab_walk.py);
     - with ``ignore_merges`` a whole pre-token that is in the vocabulary is one token (tokenizer/ignore_merges.py);
     - byte tokens of a sentencepiece vocabulary spell characters that the vocabulary lacks, and only those;
     - a normal form leaves the text alone or the text has no canonical sequence (tokenizer/normal_forms.py).

Tokenizers that are alike share one `Viability` for as long as it is in use: what was found out serves all of them.

Cost
    The viable right neighbours of a boundary, all tokens at once: the conjunction of a few cached bit sets. One
    neighbour: a walk over its bytes. The answers given last are kept: in a long run boundaries come again.

Source
    Our viable is the closure under prefixes of Phan's valid encodings; Hayase's valid covering tree keeps to
    canonical sequences.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any, Final
from weakref import WeakSet

import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool, Int64, UInt8

from bytelm.errors import UnsupportedTokenizerError
from bytelm.symbols import unfinished
from bytelm.tokenizer.added_tokens import AddedTexts, added_texts
from bytelm.tokenizer.alphabet import forbidden_points, outside_points
from bytelm.tokenizer.bpe import read_merges
from bytelm.tokenizer.ignore_merges import IgnoreMerges
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.normal_forms import NormalForm
from bytelm.tokenizer.prefix_index import PrefixIndex, unpacked
from bytelm.tokenizer.split.vocab_walk import INACTIVE, ProductAutomaton, States
from bytelm.tokenizer.tokenizer_json import read_vocab
from bytelm.tokenizer.viability.boundary import Boundary, Path
from bytelm.tokenizer.viability.form_futures import FormFutures
from bytelm.tokenizer.viability.levels import levels_of
from bytelm.tokenizer.viability.text_futures import TextFutures
from bytelm.tokenizer.viability.token_futures import TokenFutures
from bytelm.tokenizer.viability.token_masks import TokenMasks
from bytelm.tokenizer.vocab import Vocab

_EXTENSIONS: Final = 1 << 12
_MASKED: Final = 1 << 22  # tokens, in masks of ranges
_MASK_BYTES: Final = 1 << 25  # of masks of the whole vocabulary, as packed bits
_LIVE: Final[WeakSet[Viability]] = WeakSet()  # those that somebody has
_MAKING: Final = threading.Lock()


class Viability:
    """Decides which token sequences one tokenizer can emit.

    Attributes:
        vocab: The tokenizer, read.
        prefix_index: Its tokens in byte order.
        merges: Its merge trees.
        form: Its normal form, or None.
        steps: Its pre-tokenizer's, but for those that never find what they look for.
    """

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        # Spaces are ▁ by the time that a pre-tokenizer sees them.
        self.steps = tuple(step for step in vocab.steps if not (vocab.marks and step.pattern in (" ", r"\ ")))
        self._forbidden = forbidden_points(vocab)
        levels, self._level_of_added = levels_of(vocab, self.steps, forbidden=self._forbidden)
        if vocab.dummy_prefix and any(level.drops(0x20) for level in levels):
            raise UnsupportedTokenizerError(
                "the tokenizer puts a space in front of a text, and a step of its pre-tokenizer may drop that space: "
                "whether a text has one is lost"
            )
        # Added tokens that hide no space, and what they spell first in a text. Of their own spaces decoding drops one.
        self._first = {
            token: vocab.dummy_prefix + data
            for token, at in self._level_of_added.items()
            if levels[at].start != levels[at].start_bare
            and not (data := vocab.token_bytes[token] or b"").startswith(vocab.dummy_prefix)
        }
        self.prefix_index = PrefixIndex(vocab.token_bytes, vocab.order, first=self._first)
        self.form = NormalForm(vocab.form, self.prefix_index, self._forbidden) if vocab.form else None
        self.merges = read_merges(vocab, self.prefix_index)
        self._reachable = (self.merges.reachable & vocab.merged)[self.prefix_index.order] & self.prefix_index.own
        self._is_byte = np.zeros(len(self.prefix_index), np.bool_)
        self._is_byte[self.prefix_index.rank[list(vocab.byte_ids)]] = True
        self._ignore_merges = IgnoreMerges(vocab, self.merges, self.prefix_index)
        ordinary = self._reachable.copy()
        ordinary[self._ignore_merges.ranks] = True
        self._outside = outside_points(vocab, self._forbidden)
        if self._outside is not None:
            ordinary &= ~self._is_byte
        self.automaton = ProductAutomaton(levels, self.prefix_index, ordinary=ordinary)
        self._text_futures = TextFutures(self.automaton, outside=self._outside)
        self._token_futures = TokenFutures(
            self.automaton,
            self._text_futures,
            self.merges,
            self._ignore_merges,
            pieces=self._reachable & ~self._is_byte,
            by_bytes=self._outside is not None,
            form=self.form,
        )
        self._form_futures = FormFutures(self.form, self._text_futures, self._token_futures) if self.form else None
        ranks = np.flatnonzero(np.isin(self.prefix_index.order, list(self._level_of_added)))
        level_of = np.array([self._level_of_added[i] for i in self.prefix_index.order[ranks].tolist()], np.int64)
        own = self.prefix_index.own[ranks]
        self._added_ranks = {at: ranks[own & (level_of == at)] for at in sorted(set(level_of.tolist()))}
        self._first_ranks = {at: ranks[~own & (level_of == at)] for at in self._added_ranks}
        self._token_masks = TokenMasks(
            self.automaton,
            self._text_futures,
            self._token_futures,
            self._form_futures,
            sealed_ranks=self._ignore_merges.ranks,
            added_ranks=self._added_ranks,
        )
        self._masks: LRUCache[Boundary, UInt8[np.ndarray, " bytes"]] = LRUCache(_MASK_BYTES, lambda bits: bits.nbytes)
        self._byte_masks: dict[tuple[bool, tuple[Path, ...], bytes, str], Bool[np.ndarray, " n"]] = {}

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, *, text_tokens: Collection[str] = ()) -> Viability:
        """That of a transformers fast tokenizer or a ``tokenizers.Tokenizer``; with the errors of `read_vocab`."""
        vocab = read_vocab(tokenizer, text_tokens=text_tokens)
        with _MAKING:
            found = next((other for other in _LIVE if other.vocab.is_like(vocab)), None) or cls(vocab)
            _LIVE.add(found)
        return found

    # --- construction ------------------------------------------------------------------------------------------------

    def lacks(self, character: str) -> bool:
        """Whether no text that the tokenizer gives back holds a character."""
        return not 0xD800 <= ord(character) < 0xE000 and bool(self._forbidden[ord(character)])

    @cached_property
    def added_texts(self) -> AddedTexts:
        """The bytes of the added tokens."""
        return added_texts(self.vocab, self._level_of_added)

    # --- one token ---------------------------------------------------------------------------------------------------

    def start(self, *, dummy_prefix: bool = True) -> Boundary:
        """The boundary before the first token; ``dummy_prefix``: at the start of a text, not after a token id."""
        return Boundary(-1, (Path(self.automaton.start(bare=not dummy_prefix), self._ignore_merges.begin()),))

    @kept(_EXTENSIONS)
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
        found = [*self._ordinary(boundary, token, data, partial, tail), *self._as_added(boundary, token, tail)]
        return Boundary(token, tuple(dict.fromkeys(found)), partial, tail) if found else None

    def _ordinary(self, boundary: Boundary, token: int, data: bytes, partial: bytes, tail: str) -> Iterator[Path]:
        if not self.vocab.merged[token] or not self._spells_characters(boundary, token, data, partial):
            return
        merged = bool(self.merges.reachable[token])
        for states, word, is_cut in self.options(boundary):
            if not merged and not (is_cut and self._ignore_merges.seals(data, token)):
                continue
            if not is_cut and not self.merges.unbroken(boundary.last, token):
                continue
            after = self.automaton.read(states, data)
            if after is None:
                continue
            if merged:
                grown = self._ignore_merges.grow(word, data)
                if self._token_futures.has_future(after, token, partial, grown) and (
                    not self._form_futures or self._form_futures.has_future(after, token, partial, grown, tail)
                ):
                    yield Path(after, grown)
            elif self._can_stop(after, tail):
                yield Path(after, sealed=True)

    def _can_stop(self, states: States, tail: str) -> bool:
        """Whether the text may end after a token, or a cut may follow."""
        fits = self._text_futures.can_stop(states)
        return fits and (not self._form_futures or self._form_futures.can_stop(states, tail))

    def options(self, boundary: Boundary) -> Iterator[tuple[States, bytes | None, bool]]:
        """Where a token may begin: the states to go on from, the pre-token so far, whether there is a cut before."""
        tracked = self._ignore_merges.begin()
        if boundary.last < 0:
            yield boundary.paths[0].states, tracked, True
            return
        for path in boundary.paths:
            if not path.sealed and INACTIVE not in path.states:
                yield path.states, path.word, False
            if not self._ignore_merges.must_grow(path.word):
                for states in self.automaton.cuts(path.states):
                    yield states, tracked, True

    def spelled(self, boundary: Boundary, token: int) -> bytes:
        """The bytes that an id spells after a boundary, or none: an added token that is first has the hidden space."""
        data = self.vocab.token_bytes[token] if token < len(self.vocab) else None
        return (self._hides(boundary) and self._first.get(token)) or data or b""

    def _hides(self, boundary: Boundary) -> bool:
        """Whether the text begins here, with a hidden space that added tokens do not see."""
        return boundary.last < 0 and boundary.paths[0].states != self.automaton.start(bare=True)

    def _as_added(self, boundary: Boundary, token: int, tail: str) -> Iterator[Path]:
        at, data = self._level_of_added.get(token), self.vocab.token_bytes[token] or b""
        if at is None or boundary.partial:
            return
        tracked = self._ignore_merges.begin()
        no_space = self.automaton.start(bare=True) if token in self._first and self._hides(boundary) else None
        for path in boundary.paths:
            if not self._ignore_merges.must_grow(path.word):
                states = self.automaton.added(no_space or path.states, at, data, token, begins=boundary.last < 0)
                if states is not None and self._can_stop(states, tail):
                    yield Path(states, tracked)

    def _spells_characters(self, boundary: Boundary, token: int, data: bytes, partial: bytes) -> bool:
        """Sentencepiece: byte tokens spell characters that the vocabulary lacks, the other tokens whole characters."""
        outside = self._outside
        if outside is None:
            return True
        if not self._is_byte[self.prefix_index.rank[token]]:
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
            not self._ignore_merges.must_grow(path.word) and self._text_futures.ends(path.states)
            for path in boundary.paths
        )

    # --- all tokens --------------------------------------------------------------------------------------------------

    def mask(self, boundary: Boundary, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of a range of ranks may follow: `extend` for all of them at once. Not to be written to."""
        known: UInt8[np.ndarray, " bytes"] | None = self._masks.get(boundary)
        if known is not None:
            return unpacked(known, lo, hi)
        if hi - lo < len(self.prefix_index):
            return self._some(boundary, lo, hi)
        made = self._mask(boundary, lo, hi)
        self._masks[boundary] = np.packbits(made)
        return made

    @kept(_MASKED, size_of=len)
    def _some(self, boundary: Boundary, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        return self._mask(boundary, lo, hi)

    def _mask(self, boundary: Boundary, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        if hi <= lo:
            return np.zeros(0, np.bool_)
        if self._outside is not None and boundary.partial:
            out, doubts = np.zeros((2, hi - lo), np.bool_)
        else:
            out, doubts = (
                self._mask_all(boundary) if hi - lo == len(self.prefix_index) else self._mask_some(boundary, lo, hi)
            )
            self._add_whole_pre_tokens(boundary, out, lo, hi)
        if self._outside is not None:
            self._byte_mask(boundary, out, lo, hi)
        self._ask_words(boundary, out, lo, hi)
        if not boundary.partial:
            for at in self._added_ranks:
                out |= self._added_mask(boundary, at, lo, hi)
        if self.form:
            self.form.narrow(out, lo, hi, tail=boundary.tail, partial=boundary.partial)
            self._ask(boundary, out, np.flatnonzero(out & (doubts | self._stops_there[lo:hi])), lo)
        return out

    def _mask_some(self, boundary: Boundary, lo: int, hi: int) -> Bool[np.ndarray, "2 n"]:
        """Which tokens of a range may follow as parts of pre-tokens, and the doubts."""
        out, doubts = both = np.zeros((2, hi - lo), np.bool_)
        for states, word, is_cut in self.options(boundary):
            begun = word if is_cut else None
            fits, unsure = self._token_masks.ordinary(states, boundary.partial, lo, hi, word=begun)
            out |= fits if is_cut else fits & self.merges.unbroken_range(boundary.last, lo, hi)
            doubts |= unsure
        out &= self._reachable[lo:hi]
        return both

    def _mask_all(self, boundary: Boundary) -> Bool[np.ndarray, "2 n"]:
        """The same of the whole vocabulary: bits that are kept, put together as bits."""
        bits = np.zeros((2, len(self._reachable_bits)), np.uint8)
        for states, word, is_cut in self.options(boundary):
            begun = word if is_cut else None
            fits, *doubts = self._token_masks.ordinary_bits(states, boundary.partial, word=begun)
            bits[0] |= fits if is_cut else fits & self.merges.unbroken_bits(boundary.last)
            if doubts:
                bits[1] |= doubts[0]
        bits[0] &= self._reachable_bits
        return np.unpackbits(bits, axis=1, count=len(self.prefix_index)).view(np.bool_)

    @cached_property
    def _reachable_bits(self) -> UInt8[np.ndarray, " bytes"]:
        return np.packbits(self._reachable)

    @cached_property
    def _stops_there(self) -> Bool[np.ndarray, " tokens"]:
        """Tokens after which a cut has to follow: what may be cut off there, a normal form has a say in."""
        found = np.zeros(len(self.prefix_index), np.bool_)
        found[np.concatenate([self._ignore_merges.ranks, *self._added_ranks.values()])] = True
        return found

    def _ask(self, boundary: Boundary, out: Bool[np.ndarray, " n"], where: Int64[np.ndarray, " k"], lo: int) -> None:
        for i in where.tolist():
            out[i] = self.extend(boundary, int(self.prefix_index.order[lo + i])) is not None

    def _byte_mask(self, boundary: Boundary, out: Bool[np.ndarray, " n"], lo: int, hi: int) -> None:
        """Byte tokens, which no merge uses: what decides about them is the same at nearly every position."""
        ranks = self._byte_rank_list
        first, last = np.searchsorted(ranks, (lo, hi))
        if last - first <= 4:
            self._ask(boundary, out, ranks[first:last] - lo, lo)
            return
        key = (boundary.last < 0, boundary.paths, boundary.partial, boundary.tail)
        known = self._byte_masks.get(key)
        if known is None:
            known = np.array([self._byte_fits(boundary, rank) for rank in ranks.tolist()], np.bool_)
            self._byte_masks[key] = known
        out[ranks[first:last] - lo] = known[first:last]

    def _byte_fits(self, boundary: Boundary, rank: int) -> bool:
        """`extend` for a byte token; a lead byte fits where some character that it begins can be read."""
        data = self.prefix_index.spelled[rank]
        if self.prefix_index.missing[rank] and not boundary.partial and not self.form:
            return any(self._text_futures.spelled_by_bytes(states, data) for states, _, _ in self.options(boundary))
        token, partial = int(self.prefix_index.order[rank]), unfinished(boundary.partial + data)
        return self._spells_characters(boundary, token, data, partial) and self.extend(boundary, token) is not None

    @cached_property
    def _byte_rank_list(self) -> Int64[np.ndarray, " n"]:
        return np.flatnonzero(self._is_byte)

    def _add_whole_pre_tokens(self, boundary: Boundary, out: Bool[np.ndarray, " n"], lo: int, hi: int) -> None:
        """Tokens that stand for whole pre-tokens."""
        ranks = self._ignore_merges.ranks
        first, last = np.searchsorted(ranks, (lo, hi))
        for states, _, is_cut in self.options(boundary) if last > first else ():
            if is_cut:
                out[ranks[first:last] - lo] |= self._token_masks.sealed(states)[first:last]

    def _ask_words(self, boundary: Boundary, out: Bool[np.ndarray, " n"], lo: int, hi: int) -> None:
        """Tokens inside a pre-token that may be one which is taken whole: few, asked one by one."""
        words = {path.word for path in boundary.paths if path.word}
        asked = {rank for word in words for rank in self._ignore_merges.deciding_ranks(word) if lo <= rank < hi}
        self._ask(boundary, out, np.array(sorted(asked), np.int64) - lo, lo)

    def _added_mask(self, boundary: Boundary, at: int, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        out = np.zeros(hi - lo, np.bool_)
        hidden = self._hides(boundary) and len(self._first_ranks[at]) > 0
        ranks = (self._first_ranks if hidden else self._added_ranks)[at]
        first, last = np.searchsorted(ranks, (lo, hi))
        ranks = ranks[first:last]
        if len(ranks) <= 32 or hidden:
            for rank in ranks.tolist():
                out[rank - lo] = self.extend(boundary, int(self.prefix_index.order[rank])) is not None
            return out
        for path in boundary.paths:
            if self._ignore_merges.must_grow(path.word):
                continue
            fits = self._token_masks.added(path.states, at, begins=boundary.last < 0)
            out[ranks - lo] |= fits[first:last]
        return out
