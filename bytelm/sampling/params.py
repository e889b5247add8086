"""How completions are drawn, and when they end: one value for every method and command that draws.

Rules
    Values are checked when a `SamplingParams` is made, so before any model runs.
    Every method that draws takes one as ``params=``, and its fields as keywords; a keyword wins over the field.
    A keyword that another library uses for the same thing gets an error that names the word here.
    With ``level="token"`` temperature and filters are the engine's, of tokens; see token_level.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, TypedDict, get_args

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, integer, nearest, one_of, seed_of, shown, stops_of, switch
from bytelm.constraints import Constraint, constraint_of
from bytelm.constraints.constraint import Begun
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.sampling.constrained import Binding, Unbound
from bytelm.sampling.drafter import Drafter, drafter_of
from bytelm.sampling.filters import Filters
from bytelm.symbols import unfinished

Level: TypeAlias = Literal["byte", "token"]
Conditioning: TypeAlias = Literal["step", "exact"]
MOST_PARTICLES: Final = 10_000
LogitsProcessor: TypeAlias = Callable[[bytes, Float64[np.ndarray, "257"]], Float64[np.ndarray, "257"]]

_IN_BYTES: Final = "lengths are in bytes here, about four to a token of English: pass max_bytes"
_STOP: Final = "pass stop, one text or several"
_NOT_HERE: Final = (
    "bytes are not penalised or searched in beams: logits_processor can change a row as you like; with level='token' "
    "pass it to the engine, in engine_options"
)
# What other libraries call things.
ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("max_tokens", "max_new_tokens", "max_length", "max_gen_toks", "n_predict"), _IN_BYTES),
        **dict.fromkeys(
            ("min_tokens", "min_new_tokens", "min_length"),
            "there is no least length; ask again, or forbid the end of text (symbol 256) in a logits_processor",
        ),
        "do_sample": "temperature=0 is greedy, and every temperature above it draws: pass temperature",
        **dict.fromkeys(("num_return_sequences", "best_of", "num_samples"), "pass n"),
        **dict.fromkeys(("stop_strings", "stop_sequences", "stop_words", "until"), _STOP),
        **dict.fromkeys(("random_seed", "random_state", "manual_seed", "generator"), "pass seed, a whole number"),
        **dict.fromkeys(("eos_token_id", "stop_token_ids"), "ends of text belong to the model: ByteLM(..., eot_ids=)"),
        **dict.fromkeys(("logit_bias", "logits_processors"), "pass logits_processor, a function of bytes and a row"),
        "streamer": "call stream, which yields the pieces",
        **dict.fromkeys(
            ("num_beams", "repetition_penalty", "presence_penalty", "frequency_penalty", "length_penalty"), _NOT_HERE
        ),
    }
)


# Of these, and of the fields of `SamplingParams`, an engine's own sampler is told what they are by the caller.
_ENGINES: Final = frozenset(
    {
        *("min_tokens", "min_new_tokens", "min_length", "logit_bias", "logits_processor", "logits_processors"),
        *(name for name, instead in ELSEWHERE.items() if instead == _NOT_HERE),
    }
)


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams` as keywords, for type checkers."""

    max_bytes: int
    temperature: Number
    top_k: int | None
    top_p: Number | None
    min_p: Number | None
    stop: Text | Sequence[Text]
    seed: int | None
    logits_processor: LogitsProcessor | None
    constraint: Constraint | type | None
    conditioning: Conditioning
    budget: int
    particles: int | None
    draft: Drafter | Literal["lookup"] | None
    engine_draws: bool | None
    lazy: bool
    level: Level
    engine_options: Mapping[str, Any] | None


class CallOptions(SamplingOptions, total=False):
    """What every method that draws takes by keyword, for type checkers."""

    params: SamplingParams | None
    progress: bool


@dataclass(frozen=True)
class SamplingParams:
    r"""How to draw a completion, and when to end it.

    Attributes:
        max_bytes: The most new bytes.
        temperature: Of the byte distribution; 0 is greedy.
        top_k: Keep the k likeliest of the 257 symbols.
        top_p: Keep the smallest set of likeliest symbols whose probability is at least this.
        min_p: Keep the symbols that are at least this fraction as likely as the likeliest.
        stop: Generation stops before any of these texts. Matches that start in the prompt do not count. One
            text is accepted too; the field holds a tuple of bytes.
        seed: The seed of the draws; None takes a fresh one. Item i of a batch is a function of (seed, i) alone.
        logits_processor: A function of the bytes written so far and of the row of 257 log-probabilities. It returns
            257 numbers to draw from instead (−inf forbids a symbol), before temperature and filters. Each row is then
            evaluated in full.
        constraint: A constraint of `bytelm.constraints`, or a pydantic model for JSON of its schema.
            The text ends where nothing more may be written, for the reason "stop". Temperature and filters are of what
            is allowed. Bytes that are the only way on take neither a model call nor a random number.
        conditioning: What law a constrained text has. ``"step"``: a symbol is drawn from the row over what is allowed
            next. ``"exact"``: each text is drawn with the model's probability of it, given that the text meets the
            constraint (conditioned.py). That takes several attempts, so a stream gives the text at once, at
            its end. It takes temperature 1 without filters or a processor.
        budget: With ``conditioning="exact"``, the most attempts.
        particles: Draw so many texts at once, weigh them, and pick one by the weights (particles.py). That approaches
            the law of ``conditioning="exact"`` where its attempts would be too many. `Completion.particles` has all of
            them. It takes temperature 1 without filters or a processor.
        draft: A byte model, usually a smaller one, that drafts bytes for this one to check in fewer calls. It may be
            any `ByteLM` or `Ensemble`. ``"lookup"`` and `Lookup` draft what followed the last bytes earlier in the
            text. The distribution is the same (speculation.py), but the same seed gives another text. At
            temperature 0 the text is the same.
        engine_draws: Whether the engine draws the tokens after the prompt itself, at its own full speed. The text has
            the same distribution (token_draws.py says why); the same seed gives another text. It needs temperature 1,
            no filter, processor or constraint, one model, and an engine that can. None: where the engine says that it
            pays, as vLLM does.
        lazy: Whether to evaluate only the rows that decide a draw, and to draw by the token where that has the same
            distribution (token_draws.py, filtered_draws.py). With False the same seed may give another text.
        level: ``"byte"``: every byte is drawn from its exact distribution. ``"token"``: the end of the prompt is exact,
            and then the engine's own sampler writes, at its own speed; temperature, top_k, top_p and min_p then apply
            to tokens. Without them, at temperature 1, both have one distribution, up to leak (token_level.py).
        engine_options: With ``level="token"``, more options of the engine's sampler, such as ``repetition_penalty``, by
            the engine's own names, such as the options of transformers' ``generate`` or vLLM's ``SamplingParams``.

    Raises:
        InvalidArgumentError: A value out of its range.
        InvalidTypeError: A value of the wrong type.

    >>> SamplingParams(temperature=0, stop="\n").stop
    (b'\n',)
    """

    max_bytes: int = 256
    temperature: Number = 1.0
    top_k: int | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    stop: Text | Sequence[Text] = ()
    seed: int | None = None
    logits_processor: LogitsProcessor | None = None
    constraint: Constraint | type | None = None
    conditioning: Conditioning = "step"
    budget: int = 1000
    particles: int | None = None
    draft: Drafter | Literal["lookup"] | None = None
    engine_draws: bool | None = None
    lazy: bool = True
    level: Level = "byte"
    engine_options: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if integer("max_bytes", self.max_bytes) < 0:
            raise InvalidArgumentError(f"max_bytes must be 0 or more; got {self.max_bytes}")
        object.__setattr__(self, "stop", stops_of(self.stop))
        _ = self.filters  # sees that its values can be
        if self.seed is not None:
            seed_of(self.seed)
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise InvalidTypeError(
                f"logits_processor must be a function of the bytes so far and a row; got {shown(self.logits_processor)}"
            )
        if self.constraint is not None:
            object.__setattr__(self, "constraint", constraint_of(self.constraint))
        self._check_conditioning()
        switch("lazy", self.lazy)
        if self.engine_draws is not None:
            switch("engine_draws", self.engine_draws)
        one_of("level", self.level, get_args(Level))
        self._check_level()

    def _check_conditioning(self) -> None:
        """See that a law that is asked for can be drawn from."""
        one_of("conditioning", self.conditioning, get_args(Conditioning))
        if integer("budget", self.budget) < 1:
            raise InvalidArgumentError(f"budget must be 1 or more; got {self.budget}")
        if self.particles is not None and not 1 <= integer("particles", self.particles) <= MOST_PARTICLES:
            raise InvalidArgumentError(f"particles must be from 1 to {MOST_PARTICLES}; got {self.particles}")
        if self.conditioning == "exact" and self.particles is not None:
            raise InvalidArgumentError(
                "particles approach the exact law, and conditioning='exact' draws from it: give one of them"
            )
        if drafter_of(self.draft) is not None and self.of_texts:
            raise InvalidArgumentError(f"{self.of_texts} draws whole texts, and draft is of bytes: give one of them")
        if self.of_texts and (not self.filters.plain or self.logits_processor is not None):
            raise InvalidArgumentError(
                f"{self.of_texts} is of the model's own law of whole texts: it takes temperature 1, and no top_k, "
                "top_p, min_p or logits_processor"
            )

    def _check_level(self) -> None:
        """See that nothing is given that is of the other level."""
        options: Any = self.engine_options
        if options is not None and not (
            isinstance(options, Mapping) and all(isinstance(name, str) for name in options)
        ):
            raise InvalidTypeError(f"engine_options must map names of options to values; got {shown(options)}")
        if self.level == "byte":
            if options is not None:
                raise InvalidArgumentError(
                    f"engine_options go to the engine's own sampler, which writes only with level='token'; got "
                    f"{shown(options)}"
                )
            return
        known = {name: f"pass {name} itself" for name in ("n", *(each.name for each in fields(self)))}
        for name in options or {}:
            if name not in _ENGINES and (instead := (known | dict(ELSEWHERE)).get(name)):
                raise InvalidArgumentError(f"{name} cannot be given in engine_options: {instead}")
        if self.logits_processor is not None:
            raise InvalidArgumentError(
                "logits_processor changes rows of bytes, and with level='token' the engine draws tokens: on "
                "transformers pass engine_options={'logits_processor': [...]}"
            )
        if self.constraint is not None:
            raise InvalidArgumentError(
                "a constraint works on bytes, and with level='token' the engine draws tokens: leave level out"
            )
        if self.draft is not None:
            raise InvalidArgumentError("draft is of bytes, and with level='token' the engine draws: leave level out")
        if self.engine_draws is not None:
            raise InvalidArgumentError(
                "engine_draws has no meaning with level='token', where the engine draws anyway: leave it out"
            )

    @cached_property
    def filters(self) -> Filters:
        """The filters of each distribution."""
        return Filters(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)

    @cached_property
    def stops(self) -> tuple[bytes, ...]:
        """`stop` as a tuple of bytes."""
        return stops_of(self.stop)

    @property
    def of_texts(self) -> str:
        """The option by which whole texts are drawn, given the constraint; or nothing."""
        if self.particles is not None:
            return f"particles={self.particles}"
        return "conditioning='exact'" if self.conditioning == "exact" else ""

    @property
    def plain(self) -> bool:
        """Whether bytes are drawn from the model's own distribution, with nothing done to it."""
        return self.filters.plain and self._as_filtered

    @property
    def _as_filtered(self) -> bool:
        """Whether nothing but the filters is done to the model's own distribution."""
        changed = self.logits_processor is not None or self.constraint is not None or self.draft is not None
        return not changed and self.level == "byte"

    @property
    def by_token(self) -> bool:
        """Whether the distribution is drawn from by the token (token_draws.py, filtered_draws.py)."""
        return self.filters.by_token and self.lazy and self._as_filtered


def params_of(options: CallOptions) -> SamplingParams:
    """The parameters of a call: those given as one value, and over them those given by keyword.

    Raises:
        InvalidTypeError: A keyword that there is not, or ``params`` that are none.
        InvalidArgumentError: A value out of its range.

    >>> params_of({"params": SamplingParams(top_k=5, seed=1), "seed": 2}).seed
    2
    """
    switch("progress", options.get("progress", False))
    given: dict[str, Any] = {name: value for name, value in options.items() if name != "progress"}
    params = given.pop("params", None)
    if not isinstance(params, SamplingParams | None):
        raise InvalidTypeError(f"params must be a SamplingParams, not {type(params).__name__}: {shown(params)}")
    known = [field.name for field in fields(SamplingParams)]
    for name in given:
        if name in ELSEWHERE:
            raise InvalidTypeError(f"there is no option {name}: {ELSEWHERE[name]}")
        if name not in known:
            raise InvalidTypeError(f"there is no option {name}: {nearest(name, known)}")
    return replace(params or SamplingParams(), **given)


def binding_of(params: SamplingParams, prompt: bytes) -> Binding | None:
    """The constraint on a text after a byte prefix, where there is one.

    Raises:
        ConstraintError: The prefix violates it.
    """
    return None if params.constraint is None else Binding(constraint_of(params.constraint), prompt)


def binding_for(params: SamplingParams, prompt: bytes) -> Binding:
    """As `binding_of`, where there is none one that allows all."""
    return binding_of(params, prompt) or Unbound(prompt)


def params_on_new(options: CallOptions) -> SamplingParams:
    """As `params_of`, if an infill format makes the text before the new bytes.

    Raises:
        InvalidArgumentError: The constraint is on that too.
    """
    params = params_of(options)
    check_on_new(params.constraint)
    return params


def params_on_answer(options: CallOptions, begun: bytes) -> SamplingParams:
    """As `params_of`, of an answer that a template opens: what has begun of it is its byte prefix.

    Raises:
        ConstraintError: What has begun violates the constraint.
    """
    params = params_of(options)
    constraint = params.constraint
    if not isinstance(constraint, Constraint) or constraint.of == "new":
        return params
    Binding(constraint, begun)  # says so where it is violated
    whole = begun[: len(begun) - len(unfinished(begun))]  # a character that goes on is the first of the new text
    return replace(params, constraint=Begun(constraint, whole))


def check_on_new(constraint: Constraint | type | None) -> None:
    """See that a constraint is on the new bytes alone.

    Raises:
        InvalidArgumentError: It is on the text before them too.
    """
    if isinstance(constraint, Constraint) and constraint.of == "text":
        raise InvalidArgumentError(
            "a constraint of='text' is on the byte prefix too, which an infill format makes here: give of='new'"
        )
