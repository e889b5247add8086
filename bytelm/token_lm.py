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
from jaxtyping import Float, Float32

from bytelm.arguments import is_several, shown
from bytelm.errors import InvalidLogitsError, InvalidTypeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROW_TOLERANCE: Final = 1e-4  # how far log Σ exp(row) may be from 0: float32 rows of 2¹⁸ columns stay within 1e-5
EXTRA_TOKEN_COST: Final = (
    1e-3  # what a token more in a call costs, beside a call of its own, where an engine does not say it
)
FAR: Final = 1e-2  # how far it may be for a row that is still to be normalised
PART: Final = 1 << 15  # entries of a row that are summed at a time


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


def checked_rows(
    rows: Any, n: int, vocab_size: int, *, tolerance: float = ROW_TOLERANCE
) -> Float[np.ndarray, "n vocab"]:
    """The rows of an engine, found to be what `TokenLM` promises.

    Args:
        rows: What `next_token_logprobs` returned.
        n: How many sequences were asked for.
        vocab_size: Columns that a row has to have.
        tolerance: How far the log of a row's sum may be from 0, in nats.

    Raises:
        InvalidLogitsError: The shape is another one, an entry is NaN or +inf, or a row is not normalised.

    >>> checked_rows(np.log([[0.25, 0.75]]), 1, 2).shape
    (1, 2)
    >>> checked_rows(np.array([[np.nan, 0.0]]), 1, 2)
    Traceback (most recent call last):
    bytelm.errors.InvalidLogitsError: row 0 of the model's log-probabilities holds 1 NaN among its 2 columns; ...
    """
    found = shaped_rows(rows, n, vocab_size)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # One pass over a row sees everything: NaN and +inf survive the sum, and -inf adds nothing.
        totals = np.log([total(row) for row in found])
    for i in np.flatnonzero(~(np.abs(totals) <= tolerance)):
        raise InvalidLogitsError(_row_fault(found[i], int(i), float(totals[i]), tolerance))
    return found


def shaped_rows(rows: Any, n: int, vocab_size: int) -> Float[np.ndarray, "n vocab"]:
    """As `checked_rows`, for rows of an engine that has normalised them itself: they are not added up again."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(rows)
        if found.dtype not in (np.float32, np.float64):
            found = found.astype(np.float32)
    if found.shape != (n, vocab_size):
        raise InvalidLogitsError(
            f"the model returned log-probabilities of shape {found.shape}, not ({n}, {vocab_size}): one row for "
            "each sequence and one column for each token; check vocab_size and next_token_logprobs of the engine"
        )
    return found


def normalised(row: Float32[np.ndarray, " vocab"]) -> Float32[np.ndarray, " vocab"]:
    """A row whose sum is 1 to the last bits: float32 sums over a vocabulary are off by up to 1e-4.

    Raises:
        InvalidLogitsError: It is no row of log-probabilities.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_total = np.log(total(row))
    if not abs(log_total) <= FAR:
        checked_rows(row[None], 1, len(row), tolerance=FAR)  # says what is wrong
    exact: Float32[np.ndarray, " vocab"] = row - np.float32(log_total)
    return exact


def total(row: Float[np.ndarray, " vocab"]) -> float:
    """The sum of a row's exponentials.

    By parts, as fresh memory for all of them takes longer than the sum; in a part numpy adds pairwise, which in float32
    is off by less than 1e-6.

    >>> round(total(np.log([0.25, 0.5])), 12)
    0.75
    """
    powers, parts = np.empty(min(len(row), PART), row.dtype), range(0, len(row), PART)
    some = (row[first : first + PART] for first in parts)
    return sum(float(np.exp(part, out=powers[: len(part)]).sum()) for part in some)


def _row_fault(row: Float[np.ndarray, " vocab"], i: int, total: float, tolerance: float) -> str:
    head = f"row {i} of the model's log-probabilities"
    for name, bad in (("NaN", np.isnan(row)), ("+inf", row == np.inf)):
        if bad.any():
            return (
                f"{head} holds {int(bad.sum())} {name} among its {row.size} columns; the model overflowed or is "
                "damaged: load it in float32 or bfloat16, or fetch it again"
            )
    if np.isneginf(row).all():
        return f"{head} is -inf in all its {row.size} columns: no token can follow; the engine masks too much"
    return (
        f"{head} sums to exp({total:.3g}), and not to 1 within {tolerance:g}: "
        "they are not normalised natural logarithms; apply a log-softmax"
    )
