"""The one interface to a model: token sequences in, a row of next-token log-probabilities for each out.

Rules
    An engine is anything with `TokenLM`'s four members; nothing else of it is relied on.
    Rows are natural logs, normalised (sum 1 in probability), one for each sequence, in the order asked.
    -inf is a legal entry: a token that cannot follow. NaN and +inf never are.
    The empty sequence is legal: it asks for the distribution of a text's first token, and the engine supplies
    whatever start symbol its model needs.
    Batching is the engine's business. A caller asks for everything it wants in one call.
    An engine that can draw tokens at a speed of its own may say so: `TokenDrawer`. So may one that has a sampler of its
    own, with temperature, filters and more: `TokenSampler`.
    Rows are functions of their sequences. An engine whose model may be changed while it lives says when they became
    others: by its `revision` (see `revision_of`). Of an engine that has none, all rows are taken to be of one model,
    until `ByteModel.clear_cache` is called.

engines/table.py has the smallest engine: a table of distributions. Tests and documentation run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    NoReturn,
    Protocol,
    Self,
    SupportsIndex,
    TypeAlias,
    runtime_checkable,
)

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64

from bytelm.arguments import is_several, shown
from bytelm.errors import InvalidTypeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EXTRA_TOKEN_COST: Final = (
    1e-3  # what a token more in a call costs, beside a call of its own, where an engine does not say it
)


class OneProcess:
    """A thing that holds a model that runs, or its place in a text: threads share it, and it is not sent to processes.

    ``copy.copy`` makes another one that shares all of it. ``pickle`` and ``copy.deepcopy`` are refused.
    """

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise InvalidTypeError(
            f"a {type(self).__name__} cannot be pickled or copied deeply: it belongs to a model that runs, with caches "
            "and locks. Threads may share it; another process loads its own, by ByteLM.from_pretrained. What it "
            "gives (a Completion, a row, bytes) can be sent"
        )


@dataclass(slots=True)
class Usage:
    """What an engine has spent so far. Counters only grow; take the difference of two copies.

    Attributes:
        calls: Forward passes of the model.
        tokens_fed: Tokens run through the model, padding excluded.
    """

    calls: int = 0
    tokens_fed: int = 0

    def copy(self) -> Usage:
        """The counts as they are now."""
        return Usage(self.calls, self.tokens_fed)

    def since(self, earlier: Usage) -> Usage:
        """The counts since ``earlier``.

        >>> Usage(calls=5, tokens_fed=40).since(Usage(calls=3, tokens_fed=31))
        Usage(calls=2, tokens_fed=9)
        """
        return Usage(self.calls - earlier.calls, self.tokens_fed - earlier.tokens_fed)


@runtime_checkable
class TokenLM(Protocol):
    """A causal language model over tokens.

    Attributes:
        tokenizer: A transformers fast tokenizer (it has ``backend_tokenizer``).
        vocab_size: Columns of a row. May exceed the tokenizer's vocabulary (padding) or lack some of its ids.
        eot_ids: The ids that end a text. May be empty: then no text ends.
    """

    tokenizer: PreTrainedTokenizerFast
    vocab_size: int
    eot_ids: frozenset[int]

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float[np.ndarray, "n vocab"]:
        """Natural log-probabilities of the token after each sequence, float32 or float64, in the order given.

        The sequences of a long text hold together as many ids as the square of its tokens. They may be made as they are
        read, so go through ``sequences`` once.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Likely:
    """What is in memory of a row that is elsewhere: the entries of its likely tokens, and perhaps of some others.

    Attributes:
        ids: Ascending.
        logprobs: Theirs, natural logs.
    """

    ids: Int32[np.ndarray, " n"]
    logprobs: Float[np.ndarray, " n"]


@runtime_checkable
class DeviceRow(Protocol):
    """A row that stays where it was computed. ``np.asarray`` of it fetches all of it.

    Attributes:
        nbytes: What it takes there.
        likely: What came of it at once: all tokens above `bytelm.engines.rows.least_likely`, and perhaps others, such
            as those that end a text.

    In `ranked` and `sums` ``order`` has token ids by rank. It is always the same array for one tokenizer, and is kept
    on the device.
    """

    likely: Likely

    @property
    def nbytes(self) -> int: ...  # noqa: D102

    def __len__(self) -> int:
        """Its columns."""
        ...

    def __array__(self, dtype: Any = None, copy: Any = None) -> Float[np.ndarray, " vocab"]:
        """All of it."""
        ...

    def alone(self) -> DeviceRow:
        """The same row, which keeps no other rows of its call alive."""
        ...

    def entries(self, ids: Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The log-probabilities of some ids."""
        ...

    def ranked(self, order: Int64[np.ndarray, " tokens"], lo: int, hi: int) -> Float[np.ndarray, " n"]:
        """The log-probabilities of the ranks ``lo:hi``."""
        ...

    def drawn(self, uniform: float) -> tuple[int, float]:
        """The token that `drawn_token` gives, up to rounding, and its log-probability."""
        ...

    def sums(
        self,
        order: Int64[np.ndarray, " tokens"],
        lo: int,
        hi: int,
        mask: Bool[np.ndarray, " n"],
        starts: Int64[np.ndarray, " parts"],
    ) -> Float64[np.ndarray, " parts"]:
        """The summed probabilities of parts of the ranks ``lo:hi``; see `bytelm.cover.nodes.Ranked.sums`."""
        ...


@runtime_checkable
class RowKeeper(Protocol):
    """What an engine has on top of `TokenLM` if its rows can stay where they are computed.

    Attributes:
        device_rows: Whether they do. Then it has normalised them itself, and seen that they can be.
    """

    device_rows: bool

    def next_token_rows(self, sequences: Sequence[Sequence[int]]) -> Sequence[DeviceRow]:
        """The rows of `TokenLM.next_token_logprobs`, each where it was computed."""
        ...


@dataclass(frozen=True, slots=True)
class TokenSampling:
    """How an engine's own sampler is to draw tokens (sampling/token_level.py). All of it is of tokens.

    Attributes:
        temperature: 0 is greedy.
        top_k: How many of the likeliest tokens are kept; None keeps all.
        top_p: The mass that the kept tokens hold at least; None keeps all.
        min_p: The least probability that is kept, as a share of the greatest; None keeps all.
        eot_ids: The ids that end a text. The engine tells such a token too, and ends there.
        options: More of the engine's own options, by its own names. It passes them to its sampler as they are.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    eot_ids: frozenset[int]
    options: Mapping[str, Any]

    @property
    def filters(self) -> dict[str, float]:
        """Those of top_k, top_p and min_p that are set."""
        values = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Draw:
    """A sequence after which an engine is to draw tokens.

    Attributes:
        sequence: Token ids, at least one. With ``sampling`` there may be none: then the engine puts its start symbol.
        seed: Of the draws, from 0 to below 2⁶³. What is drawn depends on no other sequence's seed.
        max_tokens: Most tokens, at least 1.
        take: Called with each token that was drawn and its natural log-probability, in order. Where it returns False,
            the sequence is done with; where it returns another draw, as it may if the engine ``asks_each_step``, that
            is to begin in its place. With ``sampling`` the log-probability is NaN: it is not asked for.
        sampling: How the engine's own sampler draws them; None: from the rows as they are.
    """

    sequence: Sequence[int]
    seed: int
    max_tokens: int
    take: Callable[[int, float], bool | Draw]
    sampling: TokenSampling | None = None


More: TypeAlias = Callable[[], Iterable[Draw]]


@runtime_checkable
class TokenDrawer(Protocol):
    """What an engine has on top of `TokenLM` if it can draw tokens itself (sampling/token_draws.py).

    Attributes:
        draws_by_default: Whether it draws the tokens of completions where the caller says nothing.
        asks_each_step: Optional, False if it is not there: whether `draw_tokens` asks for more after each step, while
            others are under way, and begins with each sequence before it asks for the next. What is likely to be needed
            is then begun before it is certain (sampling/engine_batch.py).
    """

    draws_by_default: bool

    def draw_tokens(self, more: More) -> None:
        """Draw tokens after sequences, side by side, from the rows as they are: at temperature 1.

        An engine that is no `TokenSampler` is given no draws with ``sampling``.

        Args:
            more: Gives the sequences that are to begin, each as soon as it is known; between two of them it may ask
                this engine for rows. It is asked at the start, and again whenever sequences are done with: after each,
                or after all that were under way. When it gives none and none is under way, all is done.

        Raises:
            ContextOverflowError: A sequence has come to the end of the model's context. The others go on to their ends
                first.
        """
        ...


@runtime_checkable
class TokenSampler(TokenDrawer, Protocol):
    """What an engine has on top of `TokenDrawer` if it takes draws with ``sampling``: all of one call have the same."""

    def check_sampling(self, sampling: TokenSampling) -> None:
        """See that the engine's sampler can do so, before anything runs.

        Raises:
            InvalidArgumentError: It has no such option, or one that is not the caller's to set.
        """
        ...


@dataclass(frozen=True, slots=True)
class Abilities:
    """The optional attributes of an engine, with a default for each that it lacks. Looked up when asked for."""

    engine: Any

    @property
    def context_length(self) -> int | None:
        """The longest sequence that it takes, or None if it has no limit or does not say."""
        length: int | None = getattr(self.engine, "context_length", None)
        return length

    @property
    def usage(self) -> Usage | None:
        """Its counters, or None if it does not count."""
        usage: Usage | None = getattr(self.engine, "usage", None)
        return usage

    @property
    def extra_token_cost(self) -> float:
        """The cost of one extra batched token, relative to a separate call."""
        cost: float = getattr(self.engine, "extra_token_cost", EXTRA_TOKEN_COST)
        return cost

    @property
    def normalises(self) -> bool:
        """Whether it has normalised its rows itself, and seen that they can be: they are not added up again."""
        return bool(getattr(self.engine, "normalises", False))

    @property
    def row_keeper(self) -> RowKeeper | None:
        """The engine itself if its rows stay on its device now, or None.

        If ``next_token_logprobs`` was replaced after ``next_token_rows`` was written, in a subclass or an object, it
        alone says what the rows are.
        """
        if not getattr(self.engine, "device_rows", False) or "next_token_logprobs" in vars(self.engine):
            return None
        for kind in type(self.engine).__mro__:
            if "next_token_rows" in vars(kind):
                keeper: RowKeeper = self.engine
                return keeper
            if "next_token_logprobs" in vars(kind):
                return None
        return None

    @property
    def drawer(self) -> TokenDrawer | None:
        """The engine itself if it can draw tokens, or None."""
        return self.engine if isinstance(self.engine, TokenDrawer) else None

    @property
    def asks_each_step(self) -> bool:
        """Whether `TokenDrawer.draw_tokens` asks for more sequences after each step."""
        return bool(getattr(self.engine, "asks_each_step", False))

    @property
    def sampler(self) -> TokenSampler | None:
        """The engine itself if it has a sampler of its own, or None."""
        return self.engine if isinstance(self.engine, TokenSampler) else None

    @property
    def model(self) -> Any:
        """The model that it runs, if it is in this process: for a fingerprint of its weights."""
        return getattr(self.engine, "model", None)

    def close(self) -> None:
        """Free what it holds (processes, memory), if it has a method for this."""
        getattr(self.engine, "close", _nothing)()

    def clear_cache(self) -> None:
        """Drop all rows and everything else that it caches, if it has a method for this."""
        getattr(self.engine, "clear_cache", _nothing)()


def _nothing() -> None:
    pass


def abilities_of(engine: Any) -> Abilities:
    """What an engine has on top of `TokenLM`. Nothing else asks an engine for optional attributes."""
    return Abilities(engine)


def revision_of(engine: Any, *, look: bool = False) -> Any:
    """A value that differs once the model of an engine was changed.

    Args:
        engine: May have ``revision``, any value, which is another one once rows are others; and ``refresh()``, which
            looks whether they are. `TokenLM.next_token_logprobs` looks too, before it computes.
        look: Whether to have it look now; otherwise it is as it was when it last looked.

    Returns:
        Its ``revision``; None of an engine that has none: its rows are taken to be the same for ever.
    """
    if look and (refresh := getattr(engine, "refresh", None)) is not None:
        refresh()
    return getattr(engine, "revision", None)


def sequences_of(sequences: object) -> list[Sequence[int]]:
    """The sequences that an engine is asked about, checked to be a list.

    Raises:
        InvalidTypeError: It is none.
    """
    if not is_several(sequences):
        raise InvalidTypeError(f"sequences must be a list of lists of token ids; got {shown(sequences)}")
    return [*sequences]
