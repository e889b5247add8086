"""Training an adapter step by step, so that it can stop anywhere and go on exactly there.

Rules
    A step is one batch: the mean loss over its labelled tokens, the gradient clipped, AdamW, a learning rate that is
    a function of the step alone (linear warm-up, then a cosine down to 0). The first token of a middle may weigh more:
    in PSM it is the one that has to be found beyond the suffix.
    Weights of the adapter and moments of the optimiser are float32. Under ``bfloat16`` the forward pass runs in
    autocast.
    Every so many steps the held-out loss is taken in both modes. The best adapter is the one with the lowest mean of
    the two; what training starts from is a candidate like the others, so the result is never worse than that. After
    `patience` measurements without a better one training ends.
State
    Adapter, moments, step, place in the data, random state, the best so far, and the log. A checkpoint is all of it in
    one file, written whole or not at all. Going on from one gives, on the same CPU and with as many threads, the
    very numbers of a run that was never interrupted: nothing that happens when a run ends early changes its state.
Padding
    On the right, and without a mask: attention is causal, so no token sees the padding behind it. The labelled tokens
    stand at the end of a sequence, so logits are asked for from the first of them on.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import torch

from bytelm.errors import BytelmError, ContextOverflowError, InvalidArgumentError, InvalidLogitsError
from evals.fim_finetune.adapter import put, taken, write_whole
from evals.fim_finetune.corpus import Corpus
from evals.fim_finetune.samples import MODES, Encoder, Holes, Mode, Sample, held_out_samples, packed, training_batches

_FORMAT: Final = 1
Ended = Literal["steps", "early", "until", "minutes", "interrupted"]


class CheckpointError(BytelmError):
    """A checkpoint is missing or damaged, or is of another run."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How training goes.

    Attributes:
        seed: Of the adapter's first weights, of the order and of the holes.
        steps: The length of the schedule.
        learning_rate: The highest.
        warmup: The share of steps until it is reached.
        weight_decay: Of AdamW.
        clip: The largest norm of a gradient.
        batch_tokens: Tokens of a step, padding included.
        first_weight: How much the first token of a middle weighs, beside 1 of each other. In training alone.
        evaluate_every: Steps between held-out losses.
        patience: Held-out losses that may pass without a better one.
        checkpoint_every: Steps between checkpoints.
        dtype: float32, or bfloat16 for autocast.

    Raises:
        InvalidArgumentError: A value that cannot be.
    """

    seed: int = 0
    steps: int = 600
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_tokens: int = 2600
    first_weight: float = 1.0
    evaluate_every: int = 100
    patience: int = 4
    checkpoint_every: int = 50
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens", "evaluate_every", "patience", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(self, name)}")
        if not (self.learning_rate > 0 and self.clip > 0 and self.weight_decay >= 0 and 0 <= self.warmup <= 1):
            raise InvalidArgumentError(
                "--learning-rate and --clip must be above 0, --weight-decay at least 0, --warmup a share; got "
                f"{self.learning_rate}, {self.clip}, {self.weight_decay}, {self.warmup}"
            )
        if not 0 < self.first_weight < math.inf:
            raise InvalidArgumentError(f"--first-weight must be above 0, and finite; got {self.first_weight}")
        if self.dtype not in ("float32", "bfloat16"):
            raise InvalidArgumentError(f"--dtype is float32 or bfloat16 (or auto); got {self.dtype!r}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first of which is 1."""
        rising = max(1, round(self.warmup * self.steps))
        if step <= rising:
            return self.learning_rate * step / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def fitting_dtype(device: str) -> str:
    """``bfloat16`` where the machine multiplies in it, else ``float32``."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    known: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if known() else "float32"


def batch_loss(
    model: Any, batch: Sequence[Sample], *, dtype: str, first_weight: float = 1.0
) -> tuple[torch.Tensor, float]:
    """The summed loss of some samples, in nats, and over how many tokens: the middles and their ends, nothing else.

    Both count the first token of each middle ``first_weight`` times.
    """
    device = next(model.parameters()).device
    longest = max(len(sample.ids) for sample in batch)
    start = min(sample.first for sample in batch) - 1  # the logits of a token stand at the one before it
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    weights = torch.zeros((len(batch), longest))
    for row, sample in enumerate(batch):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        weights[row, sample.first : len(sample.ids)] = 1.0
        weights[row, sample.first] = first_weight
    places = torch.arange(start, longest - 1, device=device)
    narrow = torch.autocast(device.type, dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    with narrow:
        logits = model(input_ids=ids.to(device), logits_to_keep=places, use_cache=False).logits
    targets, weights = (each[:, start + 1 :].to(device).flatten() for each in (ids, weights))
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets, reduction="none")
    return (losses * weights).sum(), float(weights.sum())


def held_out_loss(
    model: Any,
    samples: Mapping[Mode, Sequence[Sample]],
    *,
    dtype: str,
    batch_tokens: int,
    tick: Callable[[], None] = lambda: None,
) -> dict[Mode, float]:
    """The mean loss of each mode, in nats a token."""
    training = model.training
    model.eval()
    losses: dict[Mode, float] = {}
    with torch.inference_mode():
        for mode, of_mode in samples.items():
            total, count = 0.0, 0.0
            for batch in packed(of_mode, batch_tokens):
                loss, tokens = batch_loss(model, batch, dtype=dtype)
                total, count = total + float(loss), count + tokens
                tick()
            losses[mode] = total / count
    model.train(training)
    return losses


class Trainer:
    """One training run.

    Args:
        model: Of peft, with a trainable adapter, on its device.
        corpus: What to train on and to compare with.
        encoder: Makes samples of it.
        holes: How they are cut.
        recipe: How training goes.
        identity: What a checkpoint must agree in, to be gone on from.
    """

    def __init__(
        self, model: Any, corpus: Corpus, encoder: Encoder, holes: Holes, recipe: Recipe, identity: Mapping[str, Any]
    ) -> None:
        self.model, self.corpus, self.encoder, self.holes, self.recipe = model, corpus, encoder, holes, recipe
        self.identity = dict(identity)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(self.weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.held_out = held_out_samples(corpus.held_out, encoder, holes, seed=recipe.seed)
        self.step = self.tokens = self.epoch = self.batch = self.stale = 0
        self.seconds = 0.0
        self.best: dict[str, Any] | None = None
        self.records: list[dict[str, Any]] = []
        torch.manual_seed(recipe.seed)

    def run(
        self,
        *,
        until: int | None = None,
        minutes: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        save: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Train to the end of the schedule, or until something ends it before.

        Args:
            until: End after this step.
            minutes: End when so much time has passed in this call.
            stopped: Asked after every step whether to end.
            report: Gets each record of the log.
            save: Called where a checkpoint is due, the end included.
        """
        self._report = report
        started = clock = time.monotonic()
        if self.best is None:
            self._measure()
        batches = self._batches()
        while True:
            clock, passed = time.monotonic(), time.monotonic() - clock
            self.seconds += passed
            ended = self._ended(until, None if minutes is None else started + 60 * minutes - clock, stopped)
            if ended is not None or (self.step and self.step % self.recipe.checkpoint_every == 0):
                save()
            if ended is not None:
                return ended
            self._advance(next(batches))
            if self.step % self.recipe.evaluate_every == 0 or self.step == self.recipe.steps:
                self._measure()

    def result(self) -> dict[str, Any]:
        """The best adapter, that of now included: its weights, step and held-out losses. Changes no state."""
        assert self.best is not None  # noqa: S101 - run begins with a measurement
        if self.records[-1].get("held_out"):
            return self.best
        loss = self._loss()
        return self._candidate(loss) if _mean(loss) < _mean(self.best["held_out"]) else self.best

    def checkpoint(self, path: Path) -> None:
        """Write all of the state.

        Raises:
            OSError: It could not be written; what was there before still is.
        """
        state = {
            "format": _FORMAT,
            "identity": self.identity,
            "recipe": asdict(self.recipe),
            "adapter": taken(self.model),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "best": self.best,
            "records": self.records,
            **{name: getattr(self, name) for name in _COUNTS},
        }
        write_whole(path, lambda file: torch.save(state, file))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `read_checkpoint` gave.

        Raises:
            CheckpointError: It is of another run.
        """
        ours, theirs = {**self.identity, **asdict(self.recipe)}, {**state["identity"], **state["recipe"]}
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise CheckpointError(
                    f"the checkpoint is of another run: its {name} is {theirs.get(name)!r}, and here it is "
                    f"{ours.get(name)!r}; go on with the same packages, base and options, or begin anew"
                )
        put(self.model, state["adapter"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random_cuda"])
        self.best, self.records = state["best"], [*state["records"]]
        for name in _COUNTS:
            setattr(self, name, state[name])

    def _ended(self, until: int | None, left: float | None, stopped: Callable[[], bool]) -> Ended | None:
        if self.step >= self.recipe.steps:
            return "steps"
        if self.stale >= self.recipe.patience:
            return "early"
        if until is not None and self.step >= until:
            return "until"
        if stopped():
            return "interrupted"
        return "minutes" if left is not None and left <= 0 else None

    def _batches(self) -> Iterator[list[Sample]]:
        """The batches from the place in the data on, which moves along."""
        while True:
            seed, size = self.recipe.seed, self.recipe.batch_tokens
            epoch = training_batches(
                self.corpus.train, self.encoder, self.holes, seed=seed, epoch=self.epoch, batch_tokens=size
            )
            for batch in islice(epoch, self.batch, None):
                self.batch += 1
                yield batch
            self.epoch, self.batch = self.epoch + 1, 0

    def _advance(self, batch: Sequence[Sample]) -> None:
        began = time.monotonic()
        limit = getattr(self.model.config, "max_position_embeddings", None) or math.inf
        longest = max(len(sample.ids) for sample in batch)
        if longest > limit:
            raise ContextOverflowError(
                f"a sample has {longest} tokens, and the model's context {limit}: lower --max-chars"
            )
        rate = self.recipe.rate(self.step + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        recipe = self.recipe
        total, count = batch_loss(self.model, batch, dtype=recipe.dtype, first_weight=recipe.first_weight)
        loss = total / count
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.clip))
        if not math.isfinite(norm):
            raise InvalidLogitsError(
                f"the gradient of step {self.step + 1} is {norm}: begin anew with a lower --learning-rate, or with "
                "--dtype float32"
            )
        self.optimiser.step()
        self.step += 1
        self.tokens += sum(len(sample.ids) for sample in batch)
        self._note(
            loss=float(loss.detach()),
            modes={mode: sum(sample.mode == mode for sample in batch) for mode in MODES},
            learning_rate=rate,
            gradient_norm=norm,
            tokens=self.tokens,
            seconds=round(time.monotonic() - began, 3),
        )

    def _measure(self) -> None:
        loss = self._loss()
        self._note(held_out=loss, tokens=self.tokens)
        if self.best is None or _mean(loss) < _mean(self.best["held_out"]):
            self.best, self.stale = self._candidate(loss), 0
        else:
            self.stale += 1

    def _loss(self) -> dict[Mode, float]:
        size = self.recipe.batch_tokens
        return held_out_loss(self.model, self.held_out, dtype=self.recipe.dtype, batch_tokens=size)

    def _candidate(self, loss: dict[Mode, float]) -> dict[str, Any]:
        return {"step": self.step, "held_out": loss, "adapter": taken(self.model)}

    def _note(self, **figures: Any) -> None:
        record = {"step": self.step, **figures}
        self.records.append(record)
        self._report(record)


_COUNTS: Final = ("step", "tokens", "epoch", "batch", "stale", "seconds")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; no code in it runs.

    Raises:
        CheckpointError: It is missing, cut short, or no checkpoint.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {str(path)!r}") from None
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{str(path)!r} is no checkpoint, or a damaged one: {str(error)[:200] or type(error).__name__}; take an older copy, "
            "or begin anew"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{str(path)!r} is no checkpoint of this version; begin anew, or from its adapter")
    return dict(state)


def _mean(loss: Mapping[Mode, float]) -> float:
    return sum(loss.values()) / len(loss)
