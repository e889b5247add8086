"""The cover of a byte prefix, as boundary nodes advanced a byte at a time.

Rules
    This file knows bytes and token ids. It never sees a model or a tensor of one.

Theory of operation
    cover(x) holds the viable token sequences whose bytes begin with x and whose last token holds x's last byte. Each is
    u·t: a *boundary node* u that spells x up to some position, and one more token t that begins with the *leftover* s,
    the bytes of x after u. So the cover is known by its nodes: the tokens that may follow u and begin with s are a
    range of the vocabulary in byte order, under a mask.

Invariant (after `advance`)
    `nodes` holds every viable u that spells a prefix of x and has a viable right neighbour longer than its leftover,
    and every viable u that spells x itself (before the first byte, the root too). They are distinct as sequences, so
    the events u·t are disjoint and complete.

Step
    Reading a byte narrows each node's range by one. A token that is then spelled in full begins a new node (a child).
    A node with nothing left in its range is dropped: what it stood for is spelled by its children.
    Of several bytes at once, only the last needs to know which of a range are viable, and few are left in it by then.
    Until then a node may stay with nothing viable left. In a long run of one character nodes would stay as long as the
    longest token, one for each byte: where many have gathered, they are asked about too.

Cost
    A node's range is a branch of the vocabulary's trie, and narrows by one look-up; its mask is a part of the one
    before. On real text three to five nodes are alive, all spelled in a window no longer than the longest token.
    Boundaries of a long run are equal to earlier ones, and their answers are kept (Viability).

Source
    Our cover is Phan's cover encodings and Vieira's covering; our nodes are the inner frontier of Hayase's tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float64

from bytelm.arguments import shown
from bytelm.cover.nodes import Node as AnyNode
from bytelm.cover.nodes import Ranked
from bytelm.errors import ModelError, UnreachablePrefixError
from bytelm.symbols import character_from, character_until

if TYPE_CHECKING:
    from bytelm.tokenizer.prefix_index import Branch
    from bytelm.tokenizer.viability.boundary import Boundary
    from bytelm.tokenizer.viability.viability import Viability


_IDS_KEPT: Final = 32  # one node of so many along a text keeps its ids: else they would grow with its square
_CROWD: Final = 8  # nodes that wait unasked; ordinary text seldom has as many


class Node:
    """A boundary node: a viable token sequence that spells a prefix of the text. Compared by identity.

    Attributes:
        parent: The node without its last token; None at the root.
        token_id: The last token, -1 at the root.
        end: Bytes of the internal text (hidden leading space included) that the sequence spells.
        depth: Number of tokens.
        boundary: What may follow (tokenizer/viability/viability.py).
    """

    __slots__ = ("__weakref__", "_ids", "boundary", "depth", "end", "parent", "token_id")

    def __init__(self, parent: Node | None, token_id: int, end: int, boundary: Boundary) -> None:
        self.parent = parent
        self.token_id = token_id
        self.end = end
        self.depth: int = parent.depth + 1 if parent else 0
        self.boundary = boundary
        self._ids: tuple[int, ...] | None = None if parent else ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The sequence, without any context before the text."""
        ids: list[int] = []
        node = self
        while (known := node._ids) is None and node.parent is not None:
            ids.append(node.token_id)
            node = node.parent
        found = (known or ()) + tuple(reversed(ids))  # one copy; unpacking makes two
        if not self.depth % _IDS_KEPT:
            self._ids = found
        return found

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def __repr__(self) -> str:
        return f"Node({list(self.token_ids)}, end={self.end})"


class _Entry:
    """A node, the tokens that begin with its leftover, and which of them may follow it, once that was asked."""

    __slots__ = ("branch", "mask", "node")

    def __init__(self, node: Node, branch: Branch, mask: Bool[np.ndarray, " n"] | None = None) -> None:
        self.node = node
        self.branch = branch
        self.mask = mask

    def asked(self, viability: Viability) -> Bool[np.ndarray, " n"]:
        """The mask."""
        if self.mask is None:
            self.mask = viability.mask(self.node.boundary, self.branch.lo, self.branch.hi)
        return self.mask


class Cover:
    """All boundary nodes at a byte prefix. Immutable: `advance` returns another cover.

    >>> cover = Cover.empty(viability).advance(b"Hel")  # doctest: +SKIP
    >>> [node.token_ids for node in cover.nodes]  # doctest: +SKIP
    [(), (39,), (2797,)]
    """

    __slots__ = ("_dummy_size", "_ending", "_entries", "_nodes", "_text", "viability")

    def __init__(self, viability: Viability, text: bytes, entries: tuple[_Entry, ...], *, dummy_size: int) -> None:
        self.viability = viability
        self._text = text  # with the tokenizer's hidden leading space
        self._entries = entries
        self._dummy_size = dummy_size
        self._nodes = tuple([entry.node for entry in entries])
        self._ending: tuple[Node, ...] | None = None

    @classmethod
    def empty(cls, viability: Viability, *, dummy_prefix: bool = True) -> Cover:
        """The cover of the empty prefix; ``dummy_prefix``: the tokenizer's hidden leading space applies."""
        root = Node(None, -1, 0, viability.start(dummy_prefix=dummy_prefix))
        hidden = viability.vocab.dummy_prefix if dummy_prefix else b""
        return cls(viability, b"", (_Entry(root, viability.prefix_index.root),), dummy_size=len(hidden)).advance(hidden)

    def beyond(self, node: Node, data: bytes) -> Cover:
        """The cover of x and ``data``, where every sequence that covers them begins with a node that ends among them.

        Raises:
            UnreachablePrefixError: No such sequence spells them.
        """
        text, alone = self._text + data, (_Entry(node, self.viability.prefix_index.root),)
        begun = Cover(self.viability, text[: node.end], alone, dummy_size=self._dummy_size)
        return begun.advance(text[node.end :])

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The boundary nodes, oldest (longest leftover) first."""
        return self._nodes

    @property
    def prefix(self) -> bytes:
        """The byte prefix x."""
        return self._text[self._dummy_size :]

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Cover({shown(self.prefix)}, {len(self)} nodes)"

    @property
    def ending(self) -> tuple[Node, ...]:
        """The nodes that spell x and are canonical: the text may end there."""
        if self._ending is None:
            if len(self._text) == self._dummy_size:
                found = [node for node in self.nodes if node.parent is None]
            else:
                at_end = (node for node in self.nodes if node.end == len(self._text))
                found = [node for node in at_end if self.viability.ends_text(node.boundary)]
            self._ending = tuple(found)
        return self._ending

    def leftover(self, node: AnyNode) -> bytes:
        """The bytes of x after a node (at the start of a text, with the hidden leading space)."""
        return self._text[node.end :]

    def advance(self, data: bytes) -> Cover:
        """The cover of x followed by ``data``.

        Raises:
            UnreachablePrefixError: No token sequence that the tokenizer can emit spells the longer text.
        """
        if not data:
            return self
        text, entries, last = self._text + data, self._entries, len(data) - 1
        for at, byte in enumerate(data):
            entries = self._step(entries, byte, len(self._text) + at + 1, more=at < last)
            if not entries:
                raise self._stuck(data)
        return Cover(self.viability, text, entries, dummy_size=self._dummy_size)

    def _step(self, entries: tuple[_Entry, ...], byte: int, end: int, *, more: bool = False) -> tuple[_Entry, ...]:
        """Read a byte, up to where a text ``end`` s; none are left where nothing spells it.

        Where there are ``more`` to come, a few nodes with nothing viable left may stay until then.
        """
        viability, prefix_index = self.viability, self.viability.prefix_index
        kept: list[_Entry] = []
        born: list[_Entry] = []
        ask = not more or len(entries) > _CROWD
        for entry in entries:
            if (branch := entry.branch.below(byte)) is None:
                continue
            node, mask = entry.node, entry.mask
            lo, longer, hi = branch.lo, branch.longer, branch.hi
            if mask is not None:
                whole, mask = mask, mask[lo - entry.branch.lo : hi - entry.branch.lo]
                if len(mask) < len(whole) >> 3:
                    mask = mask.copy()  # and let go of the whole
            elif ask:
                mask = viability.mask(node.boundary, lo, hi)
            for rank in range(lo, longer):
                token = int(prefix_index.order[rank])
                if mask[rank - lo] if mask is not None else self._spells(node, token, rank):
                    boundary = viability.extend(node.boundary, token)
                    if boundary is not None:
                        born.append(_Entry(Node(node, token, end, boundary), prefix_index.root))
            # Before the first byte the root stays: everything is relative to it, and the empty text may end there.
            first = node.parent is None and end == self._dummy_size
            if first or (longer < hi if mask is None else mask[longer - lo :].any()):
                kept.append(_Entry(node, branch, mask))
        return (*kept, *born)

    def _spells(self, node: Node, token: int, rank: int) -> bool:
        """Whether a token spells after a node what it has at a rank: some have another one where a text begins."""
        index = self.viability.prefix_index
        if node.parent is not None:
            return bool(index.own[rank])
        return self.viability.spelled(node.boundary, token) == index.spelled[rank]

    def _stuck(self, data: bytes) -> UnreachablePrefixError:
        """The error of bytes that nothing spells: it says the first of them."""
        entries = self._entries
        for at, byte in enumerate(data):
            entries = self._step(entries, byte, len(self._text) + at + 1)
            if not entries:
                prefix = (self._text + data[: at + 1])[self._dummy_size :]
                message = self._unreachable(prefix, data[at + 1 : at + 4])
                return UnreachablePrefixError(message, prefix=prefix, position=len(prefix) - 1)
        raise ModelError("bytes that nothing spells are spelled one by one: the cover is broken")

    def _unreachable(self, prefix: bytes, ahead: bytes) -> str:
        at = len(prefix) - 1
        line = prefix.count(b"\n", 0, at) + 1
        before = prefix[max(0, at - 20) : at]
        message = f"no token sequence that the tokenizer emits spells byte {at} (0x{prefix[at]:02X}) after {before!r}"
        message = f"{message} in line {line}"
        if not at and prefix == b" " and self._dummy_size and self.viability.vocab.opening:
            return f"{message}: the tokenizer puts a space in front of every text itself; leave this one out"
        form = self.viability.form
        if form is not None:
            text = prefix.decode("utf-8", "ignore")
            if (normal := form.apply(text)) != text:
                return (
                    f"{message}: the tokenizer turns text into {form.form}; give {normal[-40:]!r}, or load the model "
                    "with normalize=True (--normalize)"
                )
        start = character_until(prefix, at)
        character = (prefix + ahead)[start : character_from(prefix + ahead, at + 1)].decode("utf-8", "replace")
        if len(character) == 1 and self.viability.lacks(character):
            return (
                f"the tokenizer cannot spell {character!r} (U+{ord(character):04X}) at byte {start}, line {line}: "
                "leave it out, or load the model with replace='?' (--replace '?') to put something in its place"
            )
        try:
            prefix.decode()
        except UnicodeDecodeError as error:
            if error.end < len(prefix) or "unexpected end" not in error.reason:
                return f"{message}: the text is not UTF-8 there, and this tokenizer encodes only text"
        return f"{message}; ask for a shorter prefix, or see `bytelm doctor` for what this tokenizer cannot spell"

    def viable(self, node: AnyNode) -> tuple[int, int, Bool[np.ndarray, " n"]]:
        """The ranks ``lo:hi`` of the tokens that begin with a node's leftover, and which of them may follow it."""
        entry = self._entry_of(node)
        return entry.branch.lo, entry.branch.hi, entry.asked(self.viability)

    def follows(self, node: AnyNode, token_id: int) -> bytes:
        """The bytes of a token, if it may follow a node; or none."""
        boundary = self._entry_of(node).node.boundary
        data = self.viability.spelled(boundary, token_id)
        return data if data and self.viability.extend(boundary, token_id) else b""

    def _entry_of(self, node: AnyNode) -> _Entry:
        for entry in self._entries:
            if entry.node is node:
                return entry
        raise KeyError(node)

    def masses(self, node: AnyNode, tokens: Ranked) -> Float64[np.ndarray, "256"]:
        """For each byte b, the mass of the viable tokens that begin with a node's leftover followed by b.

        Args:
            node: One of `nodes`.
            tokens: Probabilities of spellable tokens in byte order.
        """
        entry = self._entry_of(node)
        branch, mask = entry.branch, entry.asked(self.viability)
        _, values, starts = branch.parts
        following = np.zeros(256)
        if len(starts):
            following[values] = tokens.sums(branch.longer, branch.hi, mask[branch.longer - branch.lo :], starts)
        return following
