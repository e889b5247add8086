r"""Ensemble: several byte models as one, whatever their vocabularies.

    >>> from bytelm import ByteLM, Ensemble
    >>> lms = [ByteLM.from_pretrained("demo"), ByteLM.from_pretrained("demo-gemma")]  # doctest: +SKIP
    >>> Ensemble(lms, weights=[0.7, 0.3]).sample("Once upon a ti", seed=1).text  # doctest: +SKIP

Rules
    This file puts the parts together: combine.py has the formulas, place.py what is known at a place and how bytes are
    drawn there, scoring.py scores.
    A member is any `ByteModel`: a `ByteLM`, an `Ensemble`, or one of yours. Members may run on different engines and
    devices: what a round needs is one call of each engine, and members on the same engine share it.
    All members read and write the same bytes. What stands in front of them is each member's own: its BOS, or with
    `Prompts` its own prefix.
    In bayes the likelihood is that of the shared bytes: of the byte prefix and of all that follows it. Tokens in front
    of it, and what `Prompts` puts there, do not count. So P(text, more) = P(text) · P(more | text), as for any model.
    In `infill` each member reads the two sides in its own format, and the middle is shared; the likelihood of bayes
    begins at the cursor.
    A prefix that a member cannot spell is an error that names the member. Once a text goes on, see combine.py.

Cost
    A plain draw of a mixture asks one member, and a plain text in bayes is drawn from one (member_draws.py); other
    draws ask those that leave them open. ``Completion.logprob`` of a mixture or a product is a sum over the rows of all
    members: if some were not evaluated, the completion is scored at its end, in few requests. Rows and scores evaluate
    all members, and of a mixture or bayes a score takes what the members' own scores take: no whole rows. In bayes,
    what counts of a prompt is scored once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, get_args

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, bytes_of, one_of, shown
from bytelm.cover.prefix import EnsemblePrompt, Prefix, Prompts, check_neighbours
from bytelm.ensemble.attribution import Attribution, attribution
from bytelm.ensemble.combine import (
    ALPHA,
    AnyCombine,
    CombineLevel,
    Weights,
    WeightsAt,
    alpha_of,
    positive_shares,
    weights_of,
)
from bytelm.ensemble.likelihoods import Likelihoods
from bytelm.ensemble.member_draws import MemberDraws, draws_members
from bytelm.ensemble.place import Combination, EnsemblePlace
from bytelm.ensemble.scoring import EnsembleScoring
from bytelm.ensemble.state import EnsembleState
from bytelm.ensemble.whole_texts import OF_TEXTS, UNKNOWN, StringPlace, exact, power_of, text_weights
from bytelm.errors import InvalidArgumentError, InvalidTypeError, UnreachablePrefixError
from bytelm.fim import InfillSettings
from bytelm.inference.room import Asked
from bytelm.inference.scheduler import Scheduler, Step, blamed, together
from bytelm.inference.text_scoring import windows
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.writing import Generation
from bytelm.token_lm import TokenLM

T = TypeVar("T")


class Ensemble(ByteModel[EnsemblePrompt, EnsemblePlace]):
    """Several byte models as one byte model.

    Args:
        members: Byte models: `ByteLM`, `Ensemble`, or any other `ByteModel`.
        weights: One number for each member, or a function from the bytes so far (the byte prefix and what was written)
            to them; all alike if not given. In a mixture and in bayes they are divided by their sum, and none is below
            0. In a product they are exponents, used as they are: below 0 they turn a member's opinion round.
        combine: ``"mixture"``, Σ wᵢ pᵢ at each byte; ``"bayes"``, the same with each weight times the member's
            likelihood of the text so far, which makes a mixture of whole texts; ``"product"``, Π pᵢ^wᵢ over its sum.
            ``"minimum"``, ``"maximum"`` and ``"power"`` are of whole texts: level="string".
        alpha: From 0 to 1. In a product with a weight below 0 a byte or the end of text is plausible if the members of
            positive weight give it at least ``alpha`` times what they give the likeliest; what is not plausible has
            probability 0, and ``logprob`` of a text that holds it is −∞. 0 keeps all. Without a weight below 0 it
            makes no difference. (Of several members of positive weight the weighted geometric mean counts, and only
            symbols are compared that no member gives 0.)
        level: ``"byte"``: the formula is of each next byte. ``"string"``: of the members' probabilities of the whole
            text after the prefix, which is then drawn in proportion (whole_texts.py). For that, `sample` and `stream`
            take ``particles=N`` or, where no text gets more than its beginning has, ``conditioning="exact"``. Nothing
            else can be asked: rows and log-probabilities would take the sum over all texts.
        power: The exponent r of ``combine="power"``, (Σ wᵢ Pᵢ^r)^(1/r): 1 is a mixture, 0 a product, −1 the harmonic
            mean.

    Attributes:
        members: The members.
        combine: The formula.
        level: As given.
        power: As given; 1 where there is none.
        alpha: As given.
        weights: Of the members: an array, or a function from the bytes so far to one.

    Raises:
        InvalidArgumentError: No member, no such formula, or weights or an alpha that cannot be.
        InvalidTypeError: A member that is no byte model, or weights that are no numbers.
    """

    def __init__(
        self,
        members: Sequence[ByteModel[Any, Any]],
        *,
        weights: Weights | None = None,
        combine: AnyCombine = "mixture",
        alpha: float = ALPHA,
        level: CombineLevel = "byte",
        power: Number | None = None,
    ) -> None:
        if not isinstance(members, list | tuple):
            raise InvalidTypeError(f"members must be a list of byte models, not {type(members).__name__}")
        if not members:
            raise InvalidArgumentError("an ensemble needs a member; pass at least one")
        for i, member in enumerate(members):
            if not isinstance(member, ByteModel):
                raise InvalidTypeError(
                    f"member {i} is not a byte model but a {type(member).__name__}: {shown(member)}; give ByteLM(model)"
                )
        one_of("combine", combine, get_args(AnyCombine))
        one_of("level", level, get_args(CombineLevel))
        if level == "byte" and combine in OF_TEXTS:
            raise InvalidArgumentError(f"combine={combine!r} is of whole texts: pass level='string'")
        self.members: tuple[ByteModel[Any, Any], ...] = tuple(members)
        self.combine: AnyCombine = combine
        self.level: CombineLevel = level
        self.power = power_of(combine, power)
        self.alpha = alpha_of(alpha)
        self.weights: WeightsAt
        if level == "string":
            self.weights = text_weights(weights, len(self.members), combine)
        elif callable(weights):
            given = weights
            self.weights = lambda text: weights_of(
                given(text), len(self.members), self.combine, f"what weights returned after {text[-40:]!r}"
            )
        else:
            self.weights = weights_of(weights, len(self.members), combine)
        names: dict[int, list[str]] = {}
        for i, member in enumerate(self.members):
            for engine in member.engines:
                names.setdefault(id(engine), []).append(name_of(i))
        joined = {engine: " and ".join(dict.fromkeys(each)) for engine, each in names.items()}
        self.scheduler = Scheduler(self.engines[0], names=joined)
        self._likelihoods = Likelihoods(self.members)

    # ---- what only an ensemble has

    def explain(self, text: Text, *, prefix: Prefix = b"", progress: bool = False) -> Attribution:
        """Each member's probability of each byte of a text, its weight there, and who drove the byte.

        Args:
            text: The bytes to explain.
            prefix: The text before them.
            progress: Whether to show a bar on a terminal once it takes two seconds.
        """
        return self.answer(self.explained(text, prefix=prefix), label="explaining", progress=progress)

    def explained(self, text: Text, *, prefix: Prefix = b"") -> Step[Attribution]:
        """The step of `explain`, to run beside others."""
        self.check_rows()
        return self._explained(*self._scoring(text, prefix, asked="rows"))

    def state(self, prefix: Prefix) -> EnsembleState:
        """A place in a text that can be moved byte by byte: see `EnsembleState`."""
        self.check_rows()
        prompt = self.prompt(prefix)
        return EnsembleState(self, prompt, self.place(prompt, keep=True))

    # ---- steps, as `ByteSteps` describes them

    @property
    def engines(self) -> tuple[TokenLM, ...]:  # noqa: D102
        return tuple(engine for member in self.members for engine in member.engines)

    @property
    def models(self) -> tuple[Any, ...]:  # noqa: D102
        return tuple(model for member in self.members for model in member.models)

    def description(self) -> list[Any]:  # noqa: D102
        if callable(self.weights):
            raise InvalidArgumentError(
                "an ensemble whose weights are a function has no fingerprint: it cannot be told from another one"
            )
        masked = self.combine == "product" and positive_shares(self.weights, self.alpha) is not None
        told = [self.combine, self.weights.tolist(), [member.description() for member in self.members]]
        if self.level == "string":
            return [*told, self.level, self.power]
        return [*told, self.alpha] if masked else told

    def bytes_of(self, text: object, name: str = "a text") -> bytes:
        """The bytes of a text argument, in the normal form of every member that asks for one."""
        data = bytes_of(text, name)
        for member in self.members:
            data = member.bytes_of(data, name)
        return data

    def prompt(self, prefix: Prefix) -> EnsemblePrompt:
        """As in `ByteSteps`: each member reads its own prompt; the text is shared."""
        each: Any
        if isinstance(prefix, Prompts):
            each, text = prefix.prefixes, prefix.text
            if isinstance(each, str | bytes) or not isinstance(each, Sequence) or len(each) != len(self.members):
                raise InvalidArgumentError(
                    f"Prompts must hold one prefix for each of the {len(self.members)} members; got {shown(each)}"
                )
        elif isinstance(prefix, str | bytes):
            each, text = [b""] * len(self.members), prefix
            for lm in self.models:
                lm.prompts.warn_of_special(bytes_of(text, "the prefix"))
        elif isinstance(prefix, list | tuple) and prefix and isinstance(prefix[-1], str | bytes):
            check_neighbours(prefix)
            front = [*prefix[:-1], b""] if len(prefix) > 1 else b""
            each, text = [front] * len(self.members), prefix[-1]
        else:
            each, text = [prefix] * len(self.members), b""
        prompts = tuple(self._each(lambda member, own: member.prompt(own), each))
        return EnsemblePrompt(prompts, self.bytes_of(text, "the prefix"))

    def clear_cache(self) -> None:  # noqa: D102
        for member in self.members:
            member.clear_cache()
        self._likelihoods.clear()

    def check_rows(self) -> None:  # noqa: D102 - as in `ByteSteps`
        if self.level == "string":
            raise InvalidArgumentError(f"a row or the probability of a text {UNKNOWN}")

    def check_law(self, params: SamplingParams) -> None:  # noqa: D102 - as in `ByteSteps`
        if self.level == "byte":
            super().check_law(params)
        elif params.draft is not None:
            raise InvalidArgumentError("level='string' draws whole texts, and draft is of bytes: leave it out")
        elif not params.of_texts:
            raise InvalidArgumentError("level='string' draws whole texts: pass particles=N or conditioning='exact'")
        elif params.particles is None and not exact(self.combine, np.asarray(self.weights), self.power):
            raise InvalidArgumentError(
                "conditioning='exact' throws texts away, and here a text may get more than its beginning has (the "
                "maximum, a power above 1, a product whose weights add up to less than 1): pass particles=N"
            )

    def prefix_with(self, start: Callable[[Any], Sequence[int | str | bytes]], text: bytes) -> Prompts:  # noqa: D102
        return Prompts([member.prefix_with(start, b"") for member in self.members], text)

    def place(self, prompt: EnsemblePrompt, *, keep: bool = False) -> EnsemblePlace:  # noqa: D102
        owns = [own.extended(prompt.text) for own in prompt.members]
        places = self._each(lambda member, own: member.place(own, keep=keep), owns)
        how = Combination(self.combine, self.weights, self.alpha, self._likelihoods, prompt.members, self.power)
        kind = EnsemblePlace if self.level == "byte" else StringPlace
        return kind(dict(enumerate(places)), how, prompt.text)

    def generation(  # noqa: D102
        self, place: EnsemblePlace, prompt: EnsemblePrompt, params: SamplingParams, random: np.random.Generator
    ) -> Generation:
        if draws_members(place, params):
            return MemberDraws(place, params, random, lambda text, eot: self.scored(prompt, text, eot=eot))
        return super().generation(place, prompt, params, random)

    def scored(  # noqa: D102
        self, prompt: EnsemblePrompt, text: bytes, *, eot: bool = False, stride: int | None = None, strict: bool = True
    ) -> Step[float]:
        self.check_rows()
        if self.combine != "bayes" or callable(self.weights):
            scoring = yield from self.along(prompt, text, stride=stride, strict=strict)
            return math.fsum((yield from scoring.all_logprobs(text, eot=eot)))
        asked = np.flatnonzero(self.weights).tolist()
        before = yield from self._spoken(prompt, asked)
        after = yield from together(
            [
                self.members[i].scored(
                    prompt.members[i].extended(prompt.text), text, eot=eot, stride=stride, strict=False
                )
                for i in asked
            ]
        )
        start = np.log(self.weights[asked]) + before[asked]
        return float(np.logaddexp.reduce(start + np.array(after)) - np.logaddexp.reduce(start))

    def along(  # noqa: D102
        self, prompt: EnsemblePrompt, text: bytes, *, stride: int | None = None, strict: bool = True
    ) -> Step[EnsembleScoring]:
        del strict
        self.check_rows()
        return (yield from self._along(prompt, text, stride, every=callable(self.weights)))

    def warmed(self, prompt: EnsemblePrompt) -> Step[None]:
        """As in `ByteSteps`: what the prompt counts for in bayes is needed by all that follows it."""
        every = range(len(self.members)) if callable(self.weights) else np.flatnonzero(self.weights).tolist()
        yield from self._spoken(prompt, every)

    def overflow(self, prompt: EnsemblePrompt, extra: bytes, *, tokens: int = 0) -> int:  # noqa: D102
        cuts = []
        for member, own in zip(self.members, prompt.members, strict=True):
            cut = member.overflow(own.extended(prompt.text), extra, tokens=tokens)
            cuts.append(min(max(cut - len(own.text), 0), len(prompt.text)))
        return max(cuts)

    def check_room(  # noqa: D102
        self, prompt: EnsemblePrompt, text: bytes = b"", *, asked: Asked = "rows", end: bool = True
    ) -> None:
        if asked == "text" and not (self.combine == "bayes" and not callable(self.weights)):
            asked = "bytes"  # what a score is a sum over
        if asked == "bytes" and self.combine == "product":
            asked = "rows"
        for i, (member, own) in enumerate(zip(self.members, prompt.members, strict=True)):
            # What a member cannot spell it gives probability 0.
            if callable(self.weights) or self.weights[i] != 0:
                with blamed(name_of(i)), suppress(UnreachablePrefixError):
                    member.check_room(own.extended(prompt.text), text, asked=asked, end=end)

    def infilling(self, sides: Sequence[tuple[Text, Text]], how: InfillSettings) -> tuple[Ensemble, list[Prefix]]:  # noqa: D102
        found = self._each(lambda member, _: member.infilling(sides, how), self.members)
        ensemble = Ensemble(
            [infiller for infiller, _ in found],
            combine=self.combine,
            alpha=self.alpha,
            level=self.level,
            power=self.power if self.combine == "power" else None,
        )
        ensemble.weights = self.weights
        return ensemble, [Prompts(each) for each in zip(*(prompts for _, prompts in found), strict=True)]

    # ---- inside

    def _each(self, ask: Callable[[ByteModel[Any, Any], Any], T], owns: Sequence[Any]) -> list[T]:
        """What each member answers about what is its own. An error of one of them says which it was."""
        answers = []
        for i, (member, own) in enumerate(zip(self.members, owns, strict=True)):
            with blamed(name_of(i)):
                answers.append(ask(member, own))
        return answers

    def _spoken(self, prompt: EnsemblePrompt, asked: Sequence[int]) -> Step[Float64[np.ndarray, " members"]]:
        """Ln P of the shared text for some members, in bayes; 0 elsewhere."""
        likelihoods = np.zeros(len(self.members))
        if self.combine == "bayes" and prompt.text:
            steps = [self._likelihoods.of(i, prompt.members[i], prompt.text) for i in asked]
            likelihoods[list(asked)] = yield from together(steps)
        return likelihoods

    def _along(self, prompt: EnsemblePrompt, text: bytes, stride: int | None, *, every: bool) -> Step[EnsembleScoring]:
        """This ensemble along a text after a prompt; members whose weight is always 0 stay out, unless wanted."""
        weights, asked = self.weights, list(range(len(self.members)))
        if not (every or callable(weights)):
            asked = np.flatnonzero(weights).tolist()
            weights = weights[asked]
        likelihoods = yield from self._spoken(prompt, asked)
        members = []
        for i in asked:
            own = prompt.members[i].extended(prompt.text)
            members.append((yield from self.members[i].along(own, text, stride=stride, strict=False)))
        return EnsembleScoring(members, self.combine, weights, self.alpha, bytearray(prompt.text), likelihoods[asked])

    def _explained(self, prompt: EnsemblePrompt, text: bytes) -> Step[Attribution]:
        scoring = yield from self._along(prompt, text, None, every=True)
        rows, member_rows, weights = [], [], []
        for _, part, _ in windows(text):
            rows.append((yield from scoring.rows(part)))
            member_rows.append(scoring.member_rows)
            weights.append(scoring.shares)
        whole = (np.concatenate(rows), np.concatenate(member_rows, axis=1), np.concatenate(weights, axis=1))
        return attribution(text, *whole, combine=self.combine)

    def __repr__(self) -> str:
        weights = "a function" if callable(self.weights) else self.weights.round(6).tolist()
        more = f", alpha={self.alpha}" if self.combine == "product" else ""
        if self.level == "string":
            more = f", level='string', power={self.power}" if self.combine == "power" else ", level='string'"
        return f"Ensemble({list(self.members)!r}, weights={weights}, combine={self.combine!r}{more})"


def name_of(i: int) -> str:
    """What errors call a member."""
    return f"member {i} of the ensemble"
