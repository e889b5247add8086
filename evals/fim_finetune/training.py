"""Training an adapter with transformers' `Trainer`: what is taught in a step, what is measured, and when a run ends.

Rules
    A step is one batch: the mean loss over its labelled tokens. The first token of a middle may weigh more: in PSM it
    is the one that has to be found beyond the suffix. Trainer does the rest: AdamW, a cosine after a linear warm-up,
    clipping, autocast under ``bfloat16``, checkpoints, the log.
    Every so many steps the held-out loss is taken in both modes. The best adapter is the one with the lowest mean of
    the two. What training starts from is a candidate like the others, so the result is never worse than that. After
    `patience` measurements without a better one training ends.
Going on
    A checkpoint of Trainer holds adapter, moments, schedule, random state and log. The data have no state: Trainer
    counts the batches that it has seen and skips as many. On the same CPU with as many threads the result is the very
    one of a run that was never interrupted: nothing that happens when a run ends early changes what is gone on from.
Padding
    On the right. The labelled tokens end a sequence, so logits are asked for from the first of them on.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_callback import ProgressCallback

from bytelm.errors import InvalidLogitsError
from evals.fim_finetune.samples import MODES, Batches, Mode, Sample, packed
from evals.fim_finetune.settings import Recipe, Settings

START: Final = "start"  # the folder of the adapter that training began with
_NO_LABEL: Final = -100  # torch's and transformers' own
Ended = Literal["steps", "early", "until", "minutes", "interrupted"]


def settled(settings: Settings, device: str) -> Settings:
    """The settings with a dtype: ``auto`` is ``bfloat16`` where the machine multiplies in it, else ``float32``."""
    if settings.recipe.dtype != "auto":
        return settings
    known: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # newer releases of torch
    able = torch.cuda.is_bf16_supported() if device == "cuda" else known().get("avx512_bf16")
    return replace(settings, recipe=replace(settings.recipe, dtype="bfloat16" if able else "float32"))


def collate(batch: Sequence[Sample]) -> dict[str, Any]:
    """Some samples as what a model takes: labels on the middles and their ends, and no more logits than they need."""
    ids = [torch.tensor(sample.ids) for sample in batch]
    labels = [torch.tensor((_NO_LABEL,) * sample.first + sample.ids[sample.first :]) for sample in batch]
    longest = max(len(sample.ids) for sample in batch)
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=_NO_LABEL),
        # The logits of a token are at the place before it.
        "logits_to_keep": longest - min(sample.first for sample in batch) + 1,
    }


def summed_loss(
    logits: torch.Tensor, labels: torch.Tensor, first_weight: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss over the labelled tokens, in nats, and how many they are.

    Both count the first token of each row ``first_weight`` times.
    """
    labels = labels[:, labels.shape[1] - logits.shape[1] + 1 :]
    counted = labels != _NO_LABEL
    weights = torch.where(counted.cumsum(1) == 1, first_weight, 1.0) * counted
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels.flatten(), reduction="none", ignore_index=_NO_LABEL
    )
    return (losses * weights.flatten()).sum(), weights.sum()


@torch.inference_mode()
def held_out_loss(
    model: Any,
    samples: Mapping[Mode, Sequence[Sample]],
    *,
    dtype: str,
    batch_tokens: int,
    track: Callable[[list[list[Sample]]], Iterable[list[Sample]]] = iter,
) -> dict[Mode, float]:
    """The mean loss of each mode, in nats a token."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    losses: dict[Mode, float] = {}
    for mode, of_mode in samples.items():
        total = count = 0.0
        for batch in track(packed(of_mode, batch_tokens)):
            inputs = collate(batch)
            labels = inputs.pop("labels").to(device)
            inputs = {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
                logits = model(**inputs, use_cache=False).logits
            loss, tokens = summed_loss(logits, labels)
            total, count = total + float(loss), count + float(tokens)
        losses[mode] = total / count
    model.train(training)
    return losses


class Watch(ProgressCallback):
    """Trainer's progress bar, which also says when a run ends, and that there is a checkpoint then.

    Args:
        recipe: Of the run.
        until: End after this step.
        minutes: End when so much time has passed.

    Attributes:
        ended: Why the run ended.
        began: Whether a step has begun.
    """

    def __init__(self, recipe: Recipe, *, until: int | None = None, minutes: float | None = None) -> None:
        super().__init__()
        self.recipe, self.until = recipe, math.inf if until is None else until
        self.deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.ended: Ended = "steps"
        self.asked = self.began = False

    def interrupt(self, *_: object) -> None:
        """End after this step; asked a second time, at once. A signal handler."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("ending after this step; press Ctrl-C again to end now", file=sys.stderr)

    def over(self, state: Any) -> bool:
        """Whether nothing is left to train."""
        losses = [mean(losses) for _, losses in measured(state)]
        if state.global_step >= self.recipe.steps:
            self.ended = "steps"
            return True
        if losses and len(losses) > losses.index(min(losses)) + self.recipe.patience:
            self.ended = "early"
            return True
        return False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note that loading is over."""
        self.began = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask whether it is time to end, or to save what is about to be measured."""
        super().on_step_end(args, state, control)  # type: ignore[no-untyped-call] # transformers' is not annotated
        reasons: dict[Ended, bool] = {
            "steps": state.global_step >= self.recipe.steps,
            "until": state.global_step >= self.until,
            "interrupted": self.asked,
            "minutes": time.monotonic() >= self.deadline,
        }
        self.ended = next((reason for reason, is_so in reasons.items() if is_so), "steps")
        control.should_training_stop = any(reasons.values())
        control.should_save |= control.should_evaluate or control.should_training_stop

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End when patience is over."""
        super().on_evaluate(args, state, control)  # type: ignore[no-untyped-call] # transformers' is not annotated
        control.should_training_stop |= self.over(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Show the losses; refuse a gradient that is no number before a checkpoint has it."""
        if not math.isfinite(norm := logs.get("grad_norm", 0.0)):
            raise InvalidLogitsError(
                f"the gradient of step {state.global_step} is {norm}: start again with a lower --learning-rate, or with "
                "--dtype float32"
            )
        bar: Any = self.training_bar
        if "loss" in logs:
            bar.set_postfix(loss=f"{logs['loss']:.3f}", tokens=state.num_input_tokens_seen)
        if "eval_loss" in logs:
            told = ", ".join(f"{mode.upper()} {logs[f'eval_{mode}_loss']:.3f}" for mode in MODES)
            bar.write(f"step {state.global_step}: held-out loss {told}", file=sys.stderr)


class AdapterTrainer(transformers.Trainer):
    """Trainer for an adapter of peft.

    Args:
        model: With the adapter, trainable.
        args: As `arguments` makes them.
        watch: Ends the run.
        batches: What to train on.
        held_out: What to measure on.
    """

    def __init__(
        self, model: Any, args: transformers.TrainingArguments, watch: Watch, batches: Batches, held_out: Any
    ) -> None:
        self.recipe, self.folder = watch.recipe, Path(str(args.output_dir))
        self.held_out: dict[Mode, list[Sample]] = held_out
        super().__init__(
            model=model,
            args=args,
            data_collator=lambda items: collate(items[0]),
            train_dataset=batches,
            eval_dataset=held_out,
            compute_loss_func=self.mean_loss,
        )
        self.remove_callback(ProgressCallback)
        self.add_callback(watch)

    def mean_loss(self, outputs: Any, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        """The loss of a step."""
        total, weight = summed_loss(outputs.logits, labels, self.recipe.first_weight)
        return total / weight

    def measure(self) -> dict[Mode, float]:
        """The held-out losses of the adapter as it is."""
        return held_out_loss(self.model, self.held_out, dtype=self.recipe.dtype, batch_tokens=self.recipe.batch_tokens)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log the held-out losses, and keep the adapter that training begins with."""
        losses = self.measure()
        metrics = {**{f"eval_{mode}_loss": loss for mode, loss in losses.items()}, "eval_loss": mean(losses)}
        self.log(metrics)
        if self.state.global_step == 0:
            self.save_model(str(self.folder / START))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        """Write the adapter; by itself peft would look on the hub whether the base's vocabulary has grown."""
        model: Any = self.model
        model.save_pretrained(output_dir or self.folder, save_embedding_layers=False)

    def best(self) -> tuple[int, dict[Mode, float], Path]:
        """Step, held-out losses and folder of the best adapter, that of now included. Changes no state."""
        found = measured(self.state)
        if found[-1][0] != self.state.global_step:
            found.append((self.state.global_step, self.measure()))
        step, losses = min(found, key=lambda each: mean(each[1]))
        return step, losses, self.folder / (f"checkpoint-{step}" if step else START)


def measured(state: Any) -> list[tuple[int, dict[Mode, float]]]:
    """Steps and held-out losses, as Trainer's log has them."""
    records = [record for record in state.log_history if "eval_loss" in record]
    return [(record["step"], {mode: record[f"eval_{mode}_loss"] for mode in MODES}) for record in records]


def mean(losses: Mapping[Mode, float]) -> float:
    """The mean of the modes."""
    return sum(losses.values()) / len(losses)


def arguments(recipe: Recipe, out: Path, *, cpu: bool, resumed: bool) -> transformers.TrainingArguments:
    """A recipe in Trainer's words."""
    return transformers.TrainingArguments(
        output_dir=str(out),
        use_cpu=cpu,
        seed=recipe.seed,
        max_steps=recipe.steps,
        per_device_train_batch_size=1,  # an item of the data is a batch
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup * recipe.steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        bf16=recipe.dtype == "bfloat16",
        logging_steps=1,
        include_num_input_tokens_seen="non_padding",
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every,
        eval_on_start=not resumed,
        metric_for_best_model="loss",  # the best checkpoint is kept, and so is the last
        save_steps=recipe.checkpoint_every,
        save_total_limit=2,
        remove_unused_columns=False,
        report_to="none",
    )
