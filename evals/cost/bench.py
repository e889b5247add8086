"""One model with every method ready to run, and what each run took.

Methods:
    *generate*: ``model.generate``, greedy, until each prompt has its bytes. *lazy*: greedy bytes. *drawn*: bytes at
    temperature 1. *full*: greedy bytes with every boundary node evaluated. Others: peers.py, on the same loaded model.
Counts
    A hook on the model's forward pass counts calls and tokens fed, in the same way for all methods. Padding before a
    prompt is not counted if the method gives an attention mask. Tokens fed to a finished row of a batch, until the last
    row is done, are counted.
Times
    A method's time relative to `generate` is the median, over the batches, of the ratio of times per byte. Both run a
    batch one after the other: other load on the machine slows both, and a short burst affects one batch only.
    *core* is CPU time of this thread outside the model: the whole step minus the time inside the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.tokenizer.tokenizer_json import read_vocab
from evals.report.clocked import Clocked

if TYPE_CHECKING:
    from bytelm import ByteLM

OWN: Final = ("generate", "lazy", "drawn", "full")


@dataclass
class Sums:
    """Calls, tokens fed and time of one method, over all its runs."""

    method: str
    new_bytes: int = 0
    calls: int = 0
    fed: int = 0
    seconds: float = 0.0


@dataclass
class Cost(Sums):
    """The same with what only a `Bench` can measure."""

    new_tokens: int = 0
    core_seconds: float | None = None
    peak_mib: float | None = None
    total_variation: float | None = None
    batches: list[tuple[float, int]] = field(default_factory=list)  # seconds and bytes of each

    def row(self, generate: Cost) -> dict[str, float | str | None]:
        """The figures of the table."""
        seconds = _share(self.seconds, self.new_bytes)
        pairs = zip(self.batches, generate.batches, strict=False)
        ratios = [mine / new / (theirs / wrote) for (mine, new), (theirs, wrote) in pairs if new and wrote]
        core = None if self.core_seconds is None else _share(1000 * self.core_seconds, self.new_bytes)
        return {
            "method": self.method,
            "calls_per_byte": _share(self.calls, self.new_bytes),
            "calls_per_token": _share(self.calls, self.new_tokens),
            "fed_per_byte": _share(self.fed, self.new_bytes),
            "core_ms_per_byte": core,
            "ms_per_byte": None if seconds is None else 1000 * seconds,
            "time_against_generate": median(ratios) if ratios else None,
            "peak_mib": self.peak_mib,
            "total_variation": self.total_variation,
        }


def _share(amount: float, parts: int) -> float | None:
    return amount / parts if parts else None


class Bench:
    """One model, loaded once.

    Args:
        model: A folder, a hub id, or a packaged model.
        peers: By name, what makes a peer's completer from the loaded model and its tokenizer.
    """

    def __init__(self, model: str, peers: dict[str, Callable[[Any, Any], Any]] | None = None) -> None:
        from bytelm.engines.transformers.engine import load
        from bytelm.packaged import is_packaged, packaged_directory

        self.engine = load(str(packaged_directory(model)) if is_packaged(model) else model)
        self.clocked = Clocked(self.engine)
        self.structures_seconds = 0.0
        self.calls = self.fed = 0
        self.engine.model.register_forward_pre_hook(self._count, with_kwargs=True)
        self.engine.refresh()  # a hook is a change
        self.calls = self.fed = 0
        self._makers = peers or {}
        self._peers: dict[str, Any] = {}

    @cached_property
    def lm(self) -> ByteLM:
        """The byte model; `generate` runs without it."""
        from bytelm import ByteLM

        start = time.process_time()
        lm = ByteLM(self.clocked)
        self.structures_seconds = time.process_time() - start
        return lm

    def _count(self, _model: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids: Any = named["input_ids"] if "input_ids" in named else positional[0]
        mask: Any = named.get("attention_mask")
        whole = mask is not None and getattr(mask, "ndim", 0) == 2
        self.calls += 1
        self.fed += int(mask[:, -ids.shape[1] :].sum()) if whole else ids.numel()

    @contextmanager
    def measured(self, cost: Cost) -> Iterator[None]:
        """Add to a cost what the block takes of this model, from an empty cache."""
        self.clocked.restart()
        calls, fed, inside = self.calls, self.fed, self.clocked.cpu_seconds
        start, own = time.perf_counter(), time.thread_time()
        yield
        seconds, own = time.perf_counter() - start, time.thread_time() - own
        cost.seconds += seconds
        cost.calls += self.calls - calls
        cost.fed += self.fed - fed
        if cost.method in OWN[1:]:
            cost.core_seconds = (cost.core_seconds or 0.0) + own - (self.clocked.cpu_seconds - inside)

    def run(self, method: str, prompts: Sequence[str], size: int, cost: Cost) -> None:
        """Complete some prompts together, and add up what it took."""
        before = cost.seconds
        if method == "generate":
            written = [self.lm.spell(row) for row in self.generate(prompts, size, cost)]
        elif method in OWN:
            # A processor that changes nothing asks for every row in full.
            processor = (lambda _, row: row) if method == "full" else None
            warmth = 1.0 if method == "drawn" else 0.0
            options: dict[str, Any] = {"temperature": warmth, "seed": 0, "logits_processor": processor}
            with self.measured(cost):
                done = self.lm.sample_batch(prompts, max_bytes=size, **options)
            written = [completion.bytes for completion in done]
        else:
            peer = self.peer(method)
            with self.measured(cost):
                written = [peer.complete(prompt.encode(), size) for prompt in prompts]
        cost.batches.append((cost.seconds - before, sum(map(len, written))))
        for prompt, new in zip(prompts, written, strict=True):
            cost.new_bytes += len(new)
            cost.new_tokens += self._tokens(prompt.encode() + new) - self._tokens(prompt.encode())

    @cached_property
    def _lengths(self) -> Int64[np.ndarray, " columns"]:
        """The bytes that each column of a row spells."""
        spelled = read_vocab(self.engine.tokenizer).token_bytes
        lengths = np.zeros(max(self.engine.vocab_size, len(spelled)), np.int64)
        lengths[: len(spelled)] = [len(data or b"") for data in spelled]
        return lengths

    def generate(self, prompts: Sequence[str], size: int, cost: Cost) -> list[list[int]]:
        """The model's own ``generate``: the tokens that it writes after each prompt, up to so many bytes.

        A row stops with the token that brings it there; ``generate`` pads it until the last one is done.
        """
        import torch

        encoded = [self.engine.tokenizer(prompt).input_ids for prompt in prompts]
        width = max(map(len, encoded))
        pad = next(iter(sorted(self.engine.eot_ids)), 0)
        device = self.engine.model.device
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in encoded], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=device)
        lengths = torch.from_numpy(self._lengths).to(device)
        wrote = torch.zeros(len(prompts), dtype=torch.int64, device=device)

        def done(ids: Any, _scores: Any) -> Any:
            wrote.add_(lengths[ids[:, -1]])
            return wrote >= size

        # A token of no bytes at all would never end a row: twice the bytes are more than any text takes.
        options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": pad}
        options |= {"max_new_tokens": 2 * size, "stopping_criteria": [done]}
        with self.measured(cost), torch.inference_mode():
            out = self.engine.model.generate(ids, attention_mask=mask, **options)
        rows: list[list[int]] = out[:, width:].tolist()
        return [self._until(row, size) for row in rows]

    def _until(self, row: list[int], size: int) -> list[int]:
        """A row without what follows the token that brings it to so many bytes."""
        ends = np.cumsum(self._lengths[row])
        return row[: int(np.searchsorted(ends, size)) + 1]

    def rewrite(self, prompt: str, written: bytes, cost: Cost) -> None:
        """The model's own ``generate``, made to write a text that is there: its tokens as the tokenizer sets them.

        It begins behind the tokens that the prompt has with that text and without it: the last ones of a prompt that
        stops inside a word are others once the text goes on.
        """
        import torch

        encoded = self.engine.tokenizer(prompt).input_ids
        whole = self.engine.tokenizer((prompt.encode() + written).decode("utf-8", "ignore")).input_ids
        pairs = zip(encoded, whole, strict=False)
        same = max(1, next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(encoded), len(whole) - 1)))
        dictated = whole[same:]

        def only(ids: Any, scores: Any) -> Any:
            masked = torch.full_like(scores, -torch.inf)
            masked[:, dictated[ids.shape[1] - same]] = 0.0
            return masked

        ids = torch.tensor([whole[:same]], device=self.engine.model.device)
        options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with self.measured(cost), torch.inference_mode():
            self.engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=len(dictated),
                logits_processor=[only],
                **options,
            )
        cost.new_bytes += len(written)
        cost.new_tokens += len(dictated)

    def _tokens(self, text: bytes) -> int:
        return len(self.lm.tokenizer(text.decode("utf-8", "ignore"), add_special_tokens=False).input_ids)

    def peer(self, name: str) -> Any:
        """A peer's completer on this model, made when it is first asked for."""
        if name not in self._peers:
            self._peers[name] = self._makers[name](self.engine.model, self.lm.tokenizer)
        return self._peers[name]

    def total_variation(self, method: str, prompt: str) -> float | None:
        """Between a method's distribution of the next byte, the end of text included, and the exact one."""
        exact = _shares(self.lm.next_byte_logprobs(prompt))
        if method == "generate":
            from bytelm.healing import completer_of

            return _distance(_shares(completer_of(self.lm).next_byte_logprobs(prompt)), exact)
        if method in OWN:
            return None  # they are the exact one: see evals/cost/lazy.py
        return _distance(_shares(self.peer(method).next_byte_logprobs(prompt.encode())), exact)


def _shares(logprobs: Float64[np.ndarray, "257"]) -> Float64[np.ndarray, "257"]:
    probs = np.exp(logprobs)
    return np.asarray(probs / probs.sum())


def _distance(p: Float64[np.ndarray, "257"], q: Float64[np.ndarray, "257"]) -> float:
    return 0.5 * float(np.abs(p - q).sum())
