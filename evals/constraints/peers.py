"""How other programs write under a constraint on the same model, for evals/constraints/__main__.py.

Rules
    A program (programs.py) runs where it can be imported. None is a dependency of this project: for each make an environment of its own
    that has bytelm too, run this evaluation there, and let it go on with the file (``--resume``).
    All write tokens after the canonical tokens of the prompt, as is usual over tokens. Greedily the likeliest token that
    is allowed, at temperature 1 one in proportion to its probability among those. Where one token alone is allowed it is
    appended without a model call, and where nothing but the end of text is, the text ends.
    A constraint is made before the clock runs, as ours. White space in JSON is the same as ours where a program has a
    setting for it. What a program has no words for, or cannot make, is *refused*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Bool

from bytelm import ByteLM
from bytelm.errors import BytelmError
from evals.constraints.cases import Case
from evals.report.clocked import Used


class RefusedError(BytelmError):
    """A program cannot make this constraint, or cannot write so."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a peer wrote.

    Attributes:
        bytes: All of it.
        finish: As `Completion.finish_reason`; ``"stuck"`` where no token may follow and the text may not end.
    """

    bytes: bytes
    finish: Literal["eot", "stop", "length", "stuck"]


class Matcher(Protocol):
    """A text under a constraint, token by token."""

    def forced(self) -> list[int]:
        """Tokens that are the only way on, as far as the program tells; or none."""
        ...

    def allowed(self) -> Bool[np.ndarray, " vocab"]:
        """Which tokens may come next, an end of text among them."""
        ...

    def take(self, tokens: Sequence[int]) -> bool:
        """Append tokens; whether they were allowed."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing may follow, as far as the program tells."""
        ...


class Peer(ABC):
    """A program on a model.

    Args:
        lm: The model.
    """

    draws_alone = False
    """Whether it cannot write greedily."""

    def __init__(self, lm: ByteLM) -> None:
        self._lm = lm

    @abstractmethod
    def made(self, case: Case) -> Any:
        """The constraint of a case, for any number of texts.

        Raises:
            RefusedError: It cannot be made.
        """

    @abstractmethod
    def complete(self, made: Any, prompt: str, size: int, *, greedy: bool, seed: int) -> Written:
        """Write a text, until it is finished or has so many bytes.

        Args:
            made: By `made`.
            prompt: The text before it.
            size: Bytes, at most.
            greedy: Whether each token is the likeliest.
            seed: Of the draws.
        """

    @contextmanager
    def counted(self) -> Iterator[Used]:
        """A block in which is noted what the program takes of the model past the engine."""
        yield Used()

    def before(self, prompt: str) -> list[int]:
        """The tokens of a prompt."""
        return [*self._lm.prompt(b"").context, *self._lm.viability.vocab.encode(prompt)]


class OverTokens(Peer):
    """A program that masks tokens; the rows are the engine's."""

    @abstractmethod
    def matcher(self, made: Any) -> Matcher:
        """A text that has not begun."""

    def complete(self, made: Any, prompt: str, size: int, *, greedy: bool, seed: int) -> Written:  # noqa: D102
        matcher, before, new = self.matcher(made), self.before(prompt), list[int]()
        random = np.random.default_rng(seed)
        while not matcher.done:
            if len(written := self._lm.spell(new)) >= size:
                return Written(written, "length")
            tokens = matcher.forced()
            if not tokens:
                allowed = np.flatnonzero(mask := matcher.allowed())
                if not len(allowed):
                    return Written(written, "stuck")
                if self._lm.eot_ids.issuperset(allowed.tolist()):
                    return Written(written, "stop")
                alone = len(allowed) == 1
                tokens = [int(allowed[0]) if alone else self._next([*before, *new], mask, None if greedy else random)]
            if tokens[0] in self._lm.eot_ids:
                return Written(written, "eot")
            if not matcher.take(tokens):
                return Written(written, "stuck")
            new += tokens
        return Written(self._lm.spell(new), "stop")

    def _next(self, ids: list[int], mask: Bool[np.ndarray, " vocab"], random: np.random.Generator | None) -> int:
        """A token of those that are allowed: drawn, or the likeliest."""
        (row,) = self._lm.token_lm.next_token_logprobs([ids])
        masked = np.where(mask, row, -np.inf)
        if random is None:
            return int(masked.argmax())
        probs = np.exp(masked.astype(np.float64) - masked.max())
        return int(random.choice(len(probs), p=probs / probs.sum()))


def hugging_face(lm: ByteLM) -> Any:
    """The model of transformers that an engine runs.

    Raises:
        RefusedError: It runs none.
    """
    model = getattr(lm.token_lm, "model", None)
    if model is None:
        raise RefusedError("this program runs models of transformers, and the engine has none")
    return model


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Whatever a program says of a constraint that it cannot make."""
    try:
        yield
    except Exception as error:  # each program has errors of its own
        raise RefusedError(f"{name}: {type(error).__name__}: {error}") from error
