"""How completions are drawn, from what clients say about it.

Rules
    A token of every protocol is a byte: limits count bytes, and filters are of the 257 symbols.
    The values by which protocols turn something off (top_k 0, top_p 1, a seed of −1) turn it off. More bytes than the
    server writes are as many as it writes, and the completion says that its length ended it.
    Whole texts (``conditioning`` "exact", ``particles``) are drawn at temperature 1, also where the protocol's own is
    another and the request has none.
    What changes the distribution in a way that is not built here (penalties, biases, tools) is refused, for to leave it
    out would be to answer another question. What only concerns a server's resources is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from bytelm.arguments import bytes_of, shown
from bytelm.constraints import Constraint
from bytelm.errors import InvalidArgumentError
from bytelm.fim import Context, InfillSettings
from bytelm.fim.files import context_of
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.situation import Hole
from bytelm.serving.asks import Prompting, after
from bytelm.serving.constraining import MAKERS, constraint_asked
from bytelm.serving.exchange import Body, Int
from bytelm.serving.sentinel_text import parts_of
from bytelm.serving.settings import ServerSettings

_NOT_HERE: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "logit_bias": ({}, []),
        "best_of": (1,),
        "repeat_penalty": (1,),
        "repetition_penalty": (1,),
        "typical_p": (1,),
        "tfs_z": (1,),
        "mirostat": (0,),
        "dry_multiplier": (0,),
        "xtc_probability": (0,),
        "dynatemp_range": (0,),
        "images": ([],),
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
    }
)


LAW: Final = ("conditioning", "budget", "particles")  # fields of our own, under the names of `SamplingParams`


class Drawing(Body):
    """What all protocols say alike of how to draw."""

    top_k: Int | None = None
    top_p: float | None = None
    min_p: float | None = None
    stop: str | list[str] | None = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    best_of: Any = None
    repeat_penalty: Any = None
    repetition_penalty: Any = None
    typical_p: Any = None
    tfs_z: Any = None
    mirostat: Any = None
    dry_multiplier: Any = None
    xtc_probability: Any = None
    dynatemp_range: Any = None
    grammar: Any = None
    json_schema: Any = None
    format: Any = None
    images: Any = None
    tools: Any = None
    functions: Any = None
    tool_choice: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    regex: Any = None
    lark: Any = None
    choice: Any = None
    conditioning: str | None = None
    budget: Int | None = None
    particles: Int | None = None

    def warmth(self, usual: float) -> float:
        """The temperature where the request has none: 1 for whole texts, and else the protocol's."""
        return 1.0 if self.whole_texts else usual

    @property
    def whole_texts(self) -> bool:
        """Whether whole texts are drawn, and not symbols."""
        return self.conditioning == "exact" or self.particles is not None

    @property
    def slow(self) -> bool:
        """Whether a constraint is to be made."""
        return any(getattr(self, name) is not None for name in MAKERS)

    def prepare(self) -> None:
        """Make the constraint, in a thread of its own."""
        _ = self.constraint

    @cached_property
    def constraint(self) -> Constraint | None:
        """What may be written, where something says so."""
        return constraint_asked({name: getattr(self, name) for name in MAKERS})

    def params(
        self,
        settings: ServerSettings,
        *,
        max_bytes: int | None,
        temperature: float | None,
        seed: int | None,
        default: int | None = None,
    ) -> SamplingParams:
        """The parameters of a completion.

        Args:
            settings: Of the server.
            max_bytes: New bytes, at most; below 0: as many as the server writes; None: the default.
            temperature: Of the byte distribution; None: 1.
            seed: Below 0 or None: a fresh one.
            default: New bytes where nobody says how many; the server's default if not given.

        Raises:
            InvalidArgumentError: A value out of its range, or something that is not built here.
        """
        self.check()
        stops = [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop
        if len(stops) > settings.max_stops:
            raise InvalidArgumentError(f"stop has at most {settings.max_stops} texts here; got {len(stops)}")
        wanted = (default or settings.default_bytes) if max_bytes is None else max_bytes
        return SamplingParams(
            max_bytes=settings.max_bytes if wanted < 0 else min(wanted, settings.max_bytes),
            temperature=1.0 if temperature is None else temperature,
            top_k=None if self.top_k is not None and self.top_k <= 0 else self.top_k,
            top_p=None if self.top_p == 1 else self.top_p,
            min_p=None if self.min_p == 0 else self.min_p,
            stop=[stop for stop in stops if stop],
            seed=None if seed is None or seed < 0 else seed,
            engine_draws=False,
            constraint=self.constraint,
            draft=None if self.whole_texts else settings.draft,
            **self.law(settings),
        )

    def law(self, settings: ServerSettings) -> dict[str, Any]:
        """What law a constrained text is drawn by, as far as something says so.

        Raises:
            InvalidArgumentError: More attempts or particles than the server makes, or attempts at nothing.
        """
        if self.budget is not None and self.conditioning != "exact":
            raise InvalidArgumentError(
                f"budget is the most attempts of conditioning 'exact': give both, or leave it out; got {self.budget}"
            )
        for name, most in (("budget", settings.max_budget), ("particles", settings.max_particles)):
            if (given := getattr(self, name)) is not None and not 1 <= given <= most:
                raise InvalidArgumentError(f"{name} is from 1 to {most} here; got {given}")
        found: dict[str, Any] = {name: value for name in LAW if (value := getattr(self, name)) is not None}
        if self.conditioning == "exact":
            found.setdefault("budget", min(SamplingParams.budget, settings.max_budget))
        return found

    def check(self) -> None:
        """See that nothing is asked for that is not built here.

        Raises:
            InvalidArgumentError: It is.
        """
        for name, neutral in _NOT_HERE.items():
            value = getattr(self, name)
            if value is not None and not any(value == each for each in neutral):
                raise InvalidArgumentError(
                    f"{name} is not supported and would change the answer; leave it out: {shown(value)}"
                )


def many(name: str, n: int | None, settings: ServerSettings) -> int:
    """How many completions of each prompt.

    Raises:
        InvalidArgumentError: None, or too many.
    """
    count = 1 if n is None else n
    if not 1 <= count <= settings.max_n:
        raise InvalidArgumentError(f"{name} is from 1 to {settings.max_n} here; got {count}")
    return count


def check_size(settings: ServerSettings, *texts: str | bytes) -> int:
    """See that a prompt is not too long, and how many bytes it has.

    Raises:
        InvalidArgumentError: It is longer than the server takes.
    """
    size = sum(len(bytes_of(text, "prompt")) for text in texts)
    if settings.max_prompt is not None and size > settings.max_prompt:
        raise InvalidArgumentError(f"prompt has at most {settings.max_prompt} bytes here; got {size}")
    return size


def prompting(
    prompt: str | bytes,
    suffix: str | bytes | None,
    settings: ServerSettings,
    *,
    room: int,
    context: Context | None = None,
) -> Prompting:
    """The prompt of a text, or of a hole where there is a suffix or the text is written in a known format.

    Raises:
        InvalidArgumentError: It is longer than the server takes.
    """
    check_size(settings, prompt, suffix or b"")
    if suffix is None and settings.sentinel_text and isinstance(prompt, str):
        prompt, suffix = parts_of(prompt)
    if suffix is None:
        return after([prompt])  # as one segment: of a text that spells a special token nobody has to be warned
    how = InfillSettings(mode=settings.mode, context=context_of(context), room=room)
    return Hole(prompt, suffix, how)
