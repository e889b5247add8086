"""The four methods on one engine, and the cost of each.

The four
    *byte*: `ByteLM.infill`. *token*, *heal*, *align*: `TokenCompleter` with healing "none", "one", "many", on the same
    prompt as `ByteLM.infill`, so that only the method differs. In PSM the middle begins after a sentinel: there is
    nothing to heal, and these three are the same.
A fifth, which is not run unless it is asked for
    *likeliest*: the likeliest completion of all, by `ByteLM.infill_likeliest`, within ``MOST_CALLS`` model calls. Where
    these end the search it is the likeliest that was found; where none was, the end is "spent".
Temperature
    Of bytes for *byte*, of tokens for the others. At 0 both are greedy, one by bytes, the other by tokens.
Cost of one completion
    *calls*: forward passes. *fed*: tokens run through the model, the prompt included. *first_s*: seconds until the end
    of the model call that decided the first new byte; of all calls, for *likeliest*. *seconds*: the whole; *byte* includes reading the prompt, the
    others do not. The engine's cache is emptied before each completion, so counts do not depend on what was run before.
    *tokens*: the length of the completion in canonical tokens, encoded by itself. It is not the difference between the
    tokens of whole and prefix: a token across the cursor would count as none, and still has to be written.
    A completion whose cost is not counted may find its problem's prompt in the cache. It is then several times as fast,
    and the same except for rounding of rows.
What a method cannot take
    Tokens alone cannot continue inside a character, and no method can encode a PSM prefix that ends inside one. Then
    the completion is empty and its end is "refused": it counts as wrong everywhere.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypedDict, get_args

from bytelm import ByteLM
from bytelm.errors import InvalidArgumentError, UnreachablePrefixError
from bytelm.fim import Carry, Mode, find_format, is_sentinel
from bytelm.healing import Healing, TokenCompleter, TokenCompletion, infill_completer
from evals.fim.problems import Problem
from evals.report.clocked import Clocked

Method: TypeAlias = Literal["token", "heal", "align", "byte", "likeliest"]
Finish: TypeAlias = Literal["eot", "stop", "length", "refused", "spent"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
DEFAULT_METHODS: Final[tuple[Method, ...]] = ("token", "heal", "align", "byte")
MOST_CALLS: Final = 64
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
        carry: As for `ByteLM.infill`.
        temperature: See the head of this module.
        max_bytes: New bytes, at most.
        stops: Texts that end a completion and are no part of it.
        closing: A text that ends a completion and is part of it, or nothing.
        seed: Sample i of a problem depends on (seed, problem, i) alone.
    """

    mode: Mode = "auto"
    carry: Carry = "line"
    temperature: float = 0.0
    max_bytes: int = 256
    stops: tuple[str, ...] = ()
    closing: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """The cost of a completion: see the head of this module."""

    calls: int
    fed: int
    tokens: int
    first_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Written:
    """A completion, with its cost if that was counted."""

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

    def format_name(self, mode: Mode, carry: Carry = "none") -> str:
        """The infill format, the order in it that a mode takes, and what is carried there, for the record.

        Raises:
            NoInfillFormatError: The tokenizer has no fill-in-the-middle tokens, and the mode needs them.
            InvalidArgumentError: The format has no such order.
        """
        if mode in ("left", "chat"):
            return mode if mode == "left" else f"chat+{carry}"
        form = find_format(self.lm.viability.vocab)
        order = form.order(mode)
        carried = f"+{carry}" if carry != "none" and is_sentinel(order[-1]) else ""
        return f"{form.name} {'spm' if order == form.spm else 'psm'}{carried}"

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
                done = self.lm.infill(
                    problem.prefix,
                    problem.suffix,
                    mode=settings.mode,
                    carry=settings.carry,
                    context=problem.files,
                    **options,
                )
                # A prompt's nodes are evaluated in one request, so the first call settles the first byte.
                completion, finish, deciding = done.bytes, done.finish_reason, 1
            elif method == "likeliest":
                found = self.lm.infill_likeliest(
                    problem.prefix,
                    problem.suffix,
                    mode=settings.mode,
                    carry=settings.carry,
                    context=problem.files,
                    n=1,
                    stop=stops,
                    max_bytes=settings.max_bytes,
                    max_calls=MOST_CALLS,
                )
                completion, finish, deciding = b"", "spent", 0
                for ending in found:
                    completion, finish = ending.bytes, "stop" if ending.complete else "length"
            else:
                completer, prompt = infill_completer(
                    self.lm,
                    problem.prefix,
                    problem.suffix,
                    mode=settings.mode,
                    carry=settings.carry,
                    context=problem.files,
                )
                start = time.perf_counter()  # not counted: other programs encode a prompt in no time
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
    """Which call decided the first new byte: the one that drew the first token beyond the bytes taken back."""
    left = len(done.backed_up)
    for place, token in enumerate(done.token_ids, start=1):
        left -= len(completer.vocab.token_bytes[token] or b"")
        if left < 0:
            return place
    return len(done.token_ids) + 1


def seed_of(seed: int, problem: str, sample: int) -> int:
    """The seed of one sample; the same for every method."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem}/{sample}".encode()).digest()[:7])


def open_filler(
    model: str, *, engine: str = "transformers", device: str | None = None, dtype: str | None = None
) -> Filler:
    """Load a model by name, as `ByteLM.from_pretrained` does.

    Raises:
        ModelError: It cannot be loaded.
    """
    return Filler(ByteLM.from_pretrained(model, engine=engine, device=device, dtype=dtype).token_lm)
