r"""Ensemble: several byte models as one, whatever their vocabularies.

    >>> from bytelm import ByteLM, Ensemble
    >>> lms = [ByteLM.from_pretrained("demo"), ByteLM.from_pretrained("demo-gemma")]  # doctest: +SKIP
    >>> Ensemble(lms, weights=[0.7, 0.3]).sample("Once upon a ti", seed=1).text  # doctest: +SKIP

Rules
    This file puts the parts together: combine.py has the formulas, place.py places and draws, scoring.py scores.
    A member is a `ByteLM` or an `Ensemble`. Members may run on different engines and devices: what a round needs is one
    call of each engine, and members on the same engine share it.
    All members read and write the same bytes. What stands in front of them is each member's own: its BOS, or with
    `Prompts` its own prefix.
    In bayes the likelihood is that of the shared bytes: of the byte prefix and of all that follows it. Tokens in front
    of it, and what `Prompts` puts there, do not count. So P(text, more) = P(text) · P(more | text), as for any model.
    In `infill` each member reads the two sides in its own format, and the middle is shared; the likelihood of bayes
    begins at the cursor.
    A prefix that a member cannot spell is an error that names the member. Once a text goes on, see combine.py.

Cost
    A plain draw of a mixture asks one member; other draws those that leave them open. ``Completion.logprob`` of a
    mixture or a product is a sum over the rows of all members: if some were not evaluated, the completion is scored at
    its end, in few requests. Rows and scores evaluate all members, and of a mixture or bayes a score takes what the
    members' own scores take: no whole rows. In bayes, what counts of a prompt is scored once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, bytes_of, stride_of, tolerance_of
from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import EnsemblePrompt, Prefix, Prompts, extended
from bytelm.ensemble.attribution import Attribution, explanation
from bytelm.ensemble.combine import Combine, Weights, WeightsAt, check_combine, log_sums, weights_of
from bytelm.ensemble.generation import EnsembleGeneration
from bytelm.ensemble.place import Combination, EnsemblePlace, ModelPlace
from bytelm.ensemble.scoring import EnsembleScoring, ModelScoring, logprobs_along, model_logprob, model_scoring
from bytelm.ensemble.state import EnsembleState
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.fim import FIMFormat, Mode
from bytelm.inference.scheduler import Scheduler, Step, blamed, together
from bytelm.inference.scoring import WINDOW
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.completion import Settings
from bytelm.token_lm import TokenLM

LIKELIHOODS: Final = 256  # of prompts, that bayes remembers

T = TypeVar("T")
Member: TypeAlias = "ByteLM | Ensemble"


class Ensemble(ByteModel):
    """Several byte models as one, which offers what each of them does.

    Args:
        members: Byte models: `ByteLM` or `Ensemble`.
        weights: One number for each member, or a function from the bytes so far (the byte prefix and what was written)
            to them; all alike if not given. In a mixture and in bayes they are divided by their sum, and none is below
            0. In a product they are exponents, used as they are: below 0 they turn a member's opinion round.
        combine: ``"mixture"``, Σ wᵢ pᵢ at each byte; ``"bayes"``, the same with each weight times the member's
            likelihood of the text so far, which makes a mixture of whole texts; ``"product"``, Π pᵢ^wᵢ over its sum.

    Attributes:
        members: The members.
        combine: The formula.
        progress: Set it to True to see a bar on a terminal's standard error while a long job runs.

    Raises:
        InvalidArgumentError: No member, no such formula, or weights that cannot be.
        InvalidTypeError: A member that is no byte model, or weights that are no numbers.
    """

    def __init__(
        self, members: Sequence[Member], *, weights: Weights | None = None, combine: Combine = "mixture"
    ) -> None:
        if not isinstance(members, list | tuple):
            raise InvalidTypeError(f"members must be a list of byte models, not {type(members).__name__}")
        if not members:
            raise InvalidArgumentError("an ensemble needs a member; pass at least one")
        for i, member in enumerate(members):
            if not isinstance(member, ByteLM | Ensemble):
                raise InvalidTypeError(
                    f"member {i} is no byte model but {type(member).__name__}: {member!r:.80}; give ByteLM(model)"
                )
        check_combine(combine)
        self.members: tuple[Member, ...] = tuple(members)
        self.combine: Combine = combine
        self.progress = False
        self._weights: WeightsAt
        if callable(weights):
            given = weights
            self._weights = lambda text: weights_of(
                given(text), len(self.members), self.combine, f"what weights returned after {text[-40:]!r}"
            )
        else:
            self._weights = weights_of(weights, len(self.members), combine)
        names: dict[int, list[str]] = {}
        for i, member in enumerate(self.members):
            for engine in engines_of(member):
                names.setdefault(id(engine), []).append(self._name(i))
        joined = {engine: " and ".join(dict.fromkeys(each)) for engine, each in names.items()}
        self._scheduler = Scheduler(engines_of(self.members[0])[0], names=joined)
        self._told: dict[tuple[int, Any, bytes], float] = {}

    def _name(self, i: int) -> str:
        return f"member {i} of the ensemble"

    # ---- distributions

    def next_byte_logprobs(self, prefix: Prefix, *, tol: Number = 0.0) -> Float64[np.ndarray, "257"]:
        """Log-probabilities of each byte after a prefix, and at index 256 of the end of text.

        A product's row sums to 1, the others to 1 less the leak.

        Args:
            prefix: Text, a list of token ids and texts if it means the same to all members, or `Prompts`.
            tol: 0 evaluates all; above it, a bound on the total variation from the exact row, at which evaluation may
                stop.

        Raises:
            UnreachablePrefixError: A member cannot spell the prefix.
            ModelError: Every member gives it probability 0, or together they rule out all that could follow.
        """
        return self.state(prefix).next_byte_logprobs(tol=tolerance_of(tol))

    def leak(self, prefix: Prefix) -> float:
        """The mass that neither a byte nor the end of text has after a prefix."""
        return max(0.0, 1.0 - float(np.exp(self.next_byte_logprobs(prefix)).sum()))

    def logprob(self, text: Text, prefix: Prefix = b"", *, eot: bool = False, stride: int | None = None) -> float:
        """Log-probability of a text after a prefix, with ``eot`` of the text and of its end there.

        Args:
            text: What is scored. A member that cannot spell it gives it probability 0.
            prefix: What stands before it.
            eot: Whether the text ends there.
            stride: As for `ByteLM.logprob`: each member scores what does not fit in its context in pieces of its own.
        """
        prompt, data = self._read(prefix), bytes_of(text)
        self._spelled(prompt)
        return self._answer(self._logprob(prompt, data, eot=eot, stride=stride_of(stride)), label="scoring")

    def byte_logprobs(
        self, text: Text, prefix: Prefix = b"", *, stride: int | None = None
    ) -> Float64[np.ndarray, " n"]:
        """Log-probability of each byte of a text, given the prefix and the bytes before it. Their sum is `logprob`."""
        prompt, data = self._read(prefix), bytes_of(text)
        self._spelled(prompt)
        return self._answer(self._byte_logprobs(prompt, data, stride_of(stride)), label="scoring")

    def explain(self, text: Text, prefix: Prefix = b"") -> Attribution:
        """What each member says of each byte of a text, what it counts for, and who drove the byte."""
        prompt, data = self._read(prefix), bytes_of(text)
        self._spelled(prompt)
        return self._answer(self._explain(prompt, data), label="explaining")

    def state(self, prefix: Prefix) -> EnsembleState:
        """A place in a text that can be moved about byte by byte."""
        prompt = self._read(prefix)

        def fresh(text: bytes) -> EnsemblePlace:
            return self._voice(EnsemblePrompt(prompt.members, text))

        return EnsembleState(fresh(prompt.text), answer=self._answer, fresh=fresh)

    def cover(self, prefix: Prefix) -> NoReturn:  # noqa: ARG002 - as in ByteLM
        """An ensemble has no cover: token sequences are a member's.

        Raises:
            InvalidTypeError: Always.
        """
        raise InvalidTypeError(
            "an ensemble has no cover, as its members have tokens of their own: ask members[i].cover"
        )

    # ---- in the middle

    def _infilling(
        self, prefix: Text, suffix: Text, mode: Mode, wanted: str | FIMFormat | None
    ) -> tuple[Ensemble, Prompts]:
        members, prompts = [], []
        for i, member in enumerate(self.members):
            with blamed(self._name(i)):
                infiller, prompt = member._infilling(prefix, suffix, mode, wanted)  # noqa: SLF001 - likewise a byte model
            members.append(infiller)
            prompts.append(prompt)
        ensemble = Ensemble(members, combine=self.combine)
        ensemble._weights, ensemble.progress = self._weights, self.progress
        return ensemble, Prompts(prompts)

    # ---- prompts and places

    def _read(self, prefix: Prefix) -> EnsemblePrompt:
        if isinstance(prefix, Prompts):
            each, text = prefix.prefixes, prefix.text
            if isinstance(each, str | bytes) or len(each) != len(self.members):
                raise InvalidArgumentError(
                    f"Prompts must hold one prefix for each of the {len(self.members)} members; got {each!r:.80}"
                )
        elif isinstance(prefix, str | bytes):
            each, text = [b""] * len(self.members), prefix
        elif isinstance(prefix, list | tuple) and prefix and isinstance(prefix[-1], str | bytes):
            each, text = [[*prefix[:-1], b""]] * len(self.members), prefix[-1]
        else:
            each, text = [prefix] * len(self.members), b""
        prompts = []
        for i, (member, own) in enumerate(zip(self.members, each, strict=True)):
            with blamed(self._name(i)):
                prompts.append(member._read(own))  # noqa: SLF001 - likewise a byte model
        return EnsemblePrompt(tuple(prompts), bytes_of(text, "the prefix"))

    def _parts(self, prompt: EnsemblePrompt) -> list[tuple[int, Member, Any]]:
        """The members with their prompts, where they and the shared text are one."""
        prompts = [extended(own, prompt.text) for own in prompt.members]
        return [(i, member, own) for i, (member, own) in enumerate(zip(self.members, prompts, strict=True))]

    def _spelled(self, prompt: EnsemblePrompt) -> tuple[Any, ...]:
        covers = []
        for i, member, own in self._parts(prompt):
            with blamed(self._name(i)):
                covers.append(member._spelled(own))  # noqa: SLF001 - likewise a byte model
        return tuple(covers)

    def _placed(self, prompt: EnsemblePrompt, spelled: tuple[Any, ...]) -> EnsemblePlace:
        voices: list[ModelPlace | EnsemblePlace] = []
        for (_, member, own), cover in zip(self._parts(prompt), spelled, strict=True):
            if isinstance(member, Ensemble):
                voices.append(member._placed(own, cover))  # noqa: SLF001 - likewise an ensemble
            else:
                voices.append(ModelPlace(member._placed(own, cover), member.token_lm))  # noqa: SLF001
        return self._joint(prompt, voices)

    def _voice(self, prompt: EnsemblePrompt) -> EnsemblePlace:
        """The place at the end of a prompt, whose rows are kept for other states."""
        voices: list[ModelPlace | EnsemblePlace] = []
        for i, member, own in self._parts(prompt):
            with blamed(self._name(i)):
                if isinstance(member, Ensemble):
                    voices.append(member._voice(own))  # noqa: SLF001 - likewise an ensemble
                else:
                    frontier = member._frontier(own, store=member._store)  # noqa: SLF001
                    voices.append(ModelPlace(frontier, member.token_lm))
        return self._joint(prompt, voices)

    def _joint(self, prompt: EnsemblePrompt, voices: Sequence[ModelPlace | EnsemblePlace]) -> EnsemblePlace:
        def likelihood(i: int, text: bytes) -> Step[float]:
            return self._likelihood(i, prompt, text)

        return EnsemblePlace(voices, Combination(self.combine, self._weights, likelihood), prompt.text)

    def _writing(
        self, place: EnsemblePlace, prompt: EnsemblePrompt, settings: Settings, random: np.random.Generator
    ) -> EnsembleGeneration:
        return EnsembleGeneration(place, settings, random, lambda text, eot: self._logprob(prompt, text, eot=eot))

    # ---- scores

    def _logprob(
        self, prompt: EnsemblePrompt, text: bytes, *, eot: bool = False, stride: int | None = None
    ) -> Step[float]:
        if self.combine != "bayes" or callable(self._weights):
            passage = yield from self._passage(prompt, text, stride)
            return math.fsum((yield from logprobs_along(passage, text, eot=eot)))
        weights, asked = self._weights, np.flatnonzero(self._weights).tolist()
        before = yield from self._likelihoods(prompt, asked)
        steps = [self._spoken(i, extended(prompt.members[i], prompt.text), text, eot=eot, stride=stride) for i in asked]
        after = yield from together(steps)
        start = np.log(weights[asked]) + before[asked]
        return float(log_sums((start + np.array(after))[:, None])[0] - log_sums(start[:, None])[0])

    def _spoken(self, i: int, prompt: Any, text: bytes, *, eot: bool = False, stride: int | None = None) -> Step[float]:
        """Ln P(text | prompt) under one member; −∞ if it cannot spell it."""
        member = self.members[i]
        if isinstance(member, Ensemble):
            return member._logprob(prompt, text, eot=eot, stride=stride)  # noqa: SLF001 - likewise an ensemble
        return model_logprob(member, prompt, text, eot=eot, stride=stride)

    def _likelihoods(self, prompt: EnsemblePrompt, asked: Sequence[int]) -> Step[Float64[np.ndarray, " members"]]:
        """Ln P of the shared text for some members, in bayes; 0 elsewhere."""
        likelihoods = np.zeros(len(self.members))
        if self.combine == "bayes" and prompt.text:
            likelihoods[list(asked)] = yield from together([self._likelihood(i, prompt, prompt.text) for i in asked])
        return likelihoods

    def _likelihood(self, i: int, prompt: EnsemblePrompt, text: bytes) -> Step[float]:
        """Ln P(text) of a member behind what it has to itself, scored once for all that go on from there."""
        key = (i, prompt.members[i], text)
        told = self._told.get(key)
        if told is None:
            told = self._told[key] = yield from self._spoken(i, prompt.members[i], text)
            while len(self._told) > LIKELIHOODS:
                self._told.pop(next(iter(self._told)))
        return told

    def _byte_logprobs(
        self, prompt: EnsemblePrompt, text: bytes, stride: int | None
    ) -> Step[Float64[np.ndarray, " n"]]:
        passage = yield from self._passage(prompt, text, stride)
        return (yield from logprobs_along(passage, text))

    def _passage(
        self, prompt: EnsemblePrompt, text: bytes, stride: int | None, *, every: bool = False
    ) -> Step[EnsembleScoring]:
        """This ensemble along a text after a prompt; members whose weight is always 0 stay out, unless wanted."""
        weights = self._weights
        asked = list(range(len(self.members)))
        if not (every or callable(weights)):
            asked = np.flatnonzero(weights).tolist()
            weights = weights[asked]
        likelihoods = yield from self._likelihoods(prompt, asked)
        passages: list[ModelScoring | EnsembleScoring] = []
        for i in asked:
            member, own = self.members[i], extended(prompt.members[i], prompt.text)
            if isinstance(member, Ensemble):
                passages.append(
                    (
                        yield from member._passage(own, text, stride)  # noqa: SLF001 - likewise an ensemble
                    )
                )
            else:
                passages.append(model_scoring(member, own, text, stride))
        return EnsembleScoring(passages, self.combine, weights, prompt.text, likelihoods[asked])

    def _explain(self, prompt: EnsemblePrompt, text: bytes) -> Step[Attribution]:
        passage = yield from self._passage(prompt, text, None, every=True)
        rows, member_rows, weights = [], [], []
        for start in range(0, max(len(text), 1), WINDOW):
            rows.append((yield from passage.rows(text[start : start + WINDOW])))
            member_rows.append(passage.member_rows)
            weights.append(passage.shares)
        whole = (np.concatenate(rows), np.concatenate(member_rows, axis=1), np.concatenate(weights, axis=1))
        return explanation(text, *whole, combine=self.combine)

    # ---- inside

    def _running(self) -> Scheduler:
        self._scheduler.progress = self.progress
        return self._scheduler

    def _answer(self, step: Step[T], *, label: str = "evaluating") -> T:
        (outcome,) = self._running().run([step], label=label)
        return outcome.result

    def __repr__(self) -> str:
        weights = "a function" if callable(self._weights) else self._weights.round(6).tolist()
        return f"Ensemble({list(self.members)!r}, weights={weights}, combine={self.combine!r})"


def engines_of(member: Member) -> list[TokenLM]:
    """The engines that a byte model runs on."""
    if isinstance(member, ByteLM):
        return [member.token_lm]
    return [engine for each in member.members for engine in engines_of(each)]
