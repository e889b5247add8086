"""The four methods on one engine, each with what it cost.

The four
    *byte*: `ByteLM.infill`. *token*, *heal*, *align*: `TokenCompleter` with healing "none", "one", "many", on the very
    prompt of `ByteLM.infill`. So a comparison differs in the method alone. In PSM the middle begins after a sentinel,
    there is nothing to heal, and the three are one method.
Temperature
    Of bytes for *byte*, of tokens for the others; at 0 both are greedy, one by bytes, the other by tokens.
Cost of one completion
    *calls*: forward passes; *fed*: tokens run through the model, the prompt included; *first_s*: seconds until the model
    call has ended that settled the first new byte; *seconds*: the whole, for *byte* with the reading of the prompt, for
    the others without. The engine's cache is emptied before each, so
    that none pays for another's prompt and the counts do not depend on what was run before.
    *tokens*: how many the tokenizer makes of the completion by itself. The tokens that the prefix is cut into are not
    taken from those of the whole: one that joins both would count for nothing, and has to be written all the same.
    A completion whose cost is not counted may find its problem's prompt in the cache: several times as fast, and the
    same but for the rounding of rows.
What a method cannot take
    Tokens alone cannot go on inside a character, and no method has an encoding for a PSM prefix that ends in one. Then
    the completion is empty and its end is "refused": it counts as wrong everywhere.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypedDict, get_args

from bytelm import ByteLM
from bytelm.errors import InvalidArgumentError, UnreachablePrefixError
from bytelm.fim import Mode, find_format
from bytelm.healing import Healing, TokenCompleter, TokenCompletion, infill_completer
from evals.fim.problems import Problem
from evals.report.clocked import Clocked

Method: TypeAlias = Literal["token", "heal", "align", "byte"]
Finish: TypeAlias = Literal["eot", "stop", "length", "refused"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
HEALING: Final[dict[Method, Healing]] = {"token": "none", "heal": "one", "align": "many"}


class Options(TypedDict):
    """What all methods take."""

    temperature: float
    max_bytes: int
    stop: list[str]
    seed: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How completions are drawn.

    Attributes:
        mode: As for `ByteLM.infill`.
        temperature: See the head of this module.
        max_bytes: New bytes, at most.
        stops: Texts that end a completion and are no part of it.
        closing: A text that ends a completion and is part of it, or nothing.
        seed: Sample i of a problem is a function of (seed, problem, i) alone.
    """

    mode: Mode = "auto"
    temperature: float = 0.0
    max_bytes: int = 256
    stops: tuple[str, ...] = ()
    closing: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a completion cost: see the head of this module."""

    calls: int
    fed: int
    tokens: int
    first_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Written:
    """What a method wrote, and what it cost if that was counted."""

    completion: bytes
    finish: Finish
    cost: Spent | None


class Filler:
    """A model that fills in by each of the four methods.

    Args:
        token_lm: Any engine.

    Attributes:
        lm: The byte model.
    """

    def __init__(self, token_lm: Any) -> None:
        self.clocked = Clocked(token_lm)
        self.lm = ByteLM(self.clocked)
        self._cached = ""  # the problem whose prompt may be in the engine's cache

    def format_name(self, mode: Mode) -> str:
        """The infill format and the order in it that a mode takes, for the record.

        Raises:
            NoInfillFormatError: The tokenizer has no fill-in-the-middle tokens, and the mode needs them.
            InvalidArgumentError: The format has no such order.
        """
        if mode == "left":
            return "left"
        form = find_format(self.lm.viability.vocab)
        return f"{form.name} {'spm' if form.order(mode) == form.spm else 'psm'}"

    def complete(
        self, problem: Problem, method: Method, settings: Settings, sample: int = 0, *, counted: bool = True
    ) -> Written:
        """One completion; ``counted``: from an empty cache, with its cost."""
        stops = [*settings.stops, *([settings.closing] if settings.closing else [])]
        options: Options = {
            "temperature": settings.temperature,
            "max_bytes": settings.max_bytes,
            "stop": stops,
            "seed": seed_of(settings.seed, problem.id, sample),
        }
        if counted or self._cached != problem.id:
            self.clocked.restart()
        self._cached = problem.id
        before, start = self.clocked.usage.copy(), time.perf_counter()
        finish: Finish
        try:
            if method == "byte":
                done = self.lm.infill(problem.prefix, problem.suffix, mode=settings.mode, **options)
                # A prompt's nodes are evaluated in one request, so the first call settles the first byte.
                completion, finish, deciding = done.bytes, done.finish_reason, 1
            else:
                completer, prompt = infill_completer(self.lm, problem.prefix, problem.suffix, mode=settings.mode)
                start = time.perf_counter()  # what makes the prompt is ours: others encode it in no time
                drawn = completer.sample(prompt, healing=HEALING[method], **options)
                completion, finish, deciding = drawn.bytes, drawn.finish_reason, _deciding(completer, drawn)
        except (UnreachablePrefixError, InvalidArgumentError):
            completion, finish, deciding = b"", "refused", 0
        seconds = time.perf_counter() - start
        used, ended = self.clocked.usage.since(before), self.clocked.ended
        first = ended[min(deciding, len(ended)) - 1] - start if deciding and ended else seconds
        if finish == "stop":
            completion += settings.closing.encode()
        tokens = len(self.lm.viability.vocab.encode(completion.decode("utf-8", "ignore")))
        cost = Spent(used.calls, used.tokens_fed, tokens, round(first, 4), round(seconds, 4))
        return Written(completion, finish, cost if counted else None)


def _deciding(completer: TokenCompleter, done: TokenCompletion) -> int:
    """Which call settled the first new byte: that of the first token which goes beyond what was taken away."""
    left = len(done.backed_up)
    for place, token in enumerate(done.token_ids, start=1):
        left -= len(completer.vocab.token_bytes[token] or b"")
        if left < 0:
            return place
    return len(done.token_ids) + 1


def seed_of(seed: int, problem: str, sample: int) -> int:
    """The seed of one sample; the same for every method."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem}/{sample}".encode()).digest()[:7])


def open_filler(model: str, *, device: str | None = None, dtype: str | None = None) -> Filler:
    """Load a model by name, as `ByteLM.from_pretrained` does.

    Raises:
        ModelError: It cannot be loaded.
    """
    return Filler(ByteLM.from_pretrained(model, device=device, dtype=dtype).token_lm)
