r"""Calls whose answers were recorded before the package's layout changed: with the same seed, the same bytes as then.

What was recorded
    What each call of `CALLS` answered, in draws.json: the bytes, the text, why it ended and token ids, all to the
    letter, and log-probabilities as numbers. Bytes stand there as Latin-1, −∞ as null.

How
    This very file ran on the code as it was before the layout changed (commit 7900377), on the engine "transformers".
    That code could reorder linear layers for a few rows (``thin_linear``), where a measurement of time said so; that
    was switched off, as it changed rounding from run to run and is no part of the code since. The calls use only what
    both layouts offer.

    Texts at temperatures from 0.5 to 1 are younger: they were recorded when they came to be drawn by the token
    (bytelm/sampling/token_draws.py, filtered_draws.py).

Models
    The tiny ones are random ones in float64, whose weights are whole numbers over a power of two and so the same on
    every machine; their log-probabilities have 12 digits. The real ones are the packaged models in float32; 7 digits.

A change that is meant to change answers makes the file anew, and says so in the changelog:
``python -m tests.recorded.calls``, from the root of the checkout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from bytelm import ByteLM, Ensemble

FILE: Final = Path(__file__).with_name("draws.json")
REAL: Final = frozenset({"demo", "demo-fim", "demo-gemma"})
SENTINELS: Final = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


@dataclass(frozen=True)
class Mix:
    """An ensemble: its members by name, or ensembles in turn."""

    members: tuple[str | Mix, ...]
    combine: str = "mixture"
    weights: tuple[float, ...] | None = None

    @property
    def names(self) -> set[str]:
        """The models that it consists of."""
        return set().union(*(names_of(member) for member in self.members))


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        name: What the answer is filed under.
        model: Of whom it is asked.
        method: Of the model.
        arguments: By position.
        options: By keyword.
        moves: For the method "state": what is done with the state before its row is asked for.
    """

    name: str
    model: str | Mix
    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    moves: tuple[tuple[str, Any], ...] = ()

    @property
    def real(self) -> bool:
        """Whether a real model answers it."""
        return not REAL.isdisjoint(names_of(self.model))


def names_of(model: str | Mix) -> set[str]:
    """The models that a model consists of."""
    return {model} if isinstance(model, str) else model.names


def call(name: str, model: str | Mix, method: str, *arguments: Any, **options: Any) -> Call:
    """A call as it would be written."""
    moves = options.pop("moves", ())
    return Call(name, model, method, arguments, options, moves)


# ---- functions that are passed


def no_e(written: bytes, row: np.ndarray) -> np.ndarray:
    """No letter e, and no end before the twelfth byte."""
    row = np.array(row)
    row[ord("e")] = -np.inf
    if len(written) < 12:
        row[256] = -np.inf
    return row


def no_byte_twice(written: bytes, row: np.ndarray) -> np.ndarray:
    """No byte follows itself."""
    row = np.array(row)
    if written:
        row[written[-1]] = -np.inf
    return row


# ---- the calls

FOX, CODE, TALE = "The quick bro", "def fibonacci(n):\n    ret", "Once upon a ti"
FRANCE, PRIMES = "The capital of Fra", 'def is_prime(n):\n    """Whether n is pr'
MIXED = "naïve café — 2024 的🙂"

PAIR = Mix(("gpt2", "gemma3"), "mixture", (0.7, 0.3))
TRIO = Mix(("gpt2", "llama", "gemma3"), "bayes")
SQUARED = Mix(("gpt2", "gemma3"), "product", (0.6, 0.5))
NESTED = Mix((Mix(("gpt2", "gemma3"), "product"), "llama", Mix(("gpt2", "llama"), "bayes", (0.2, 0.8))), "mixture")
IN_BAYES = Mix((PAIR, "llama"), "bayes", (2, 1))

TINY: Final = (
    # one model: draws
    call("greedy", "gpt2", "sample", CODE, temperature=0, max_bytes=60),
    call("greedy-nothing", "llama", "sample", "", temperature=0, max_bytes=40),
    call("greedy-inside-a-character", "gemma3", "sample", b"Za\xc5", temperature=0, max_bytes=24),
    call("greedy-recurrent", "mamba", "sample", TALE, temperature=0, max_bytes=30),
    call("plain-gpt2", "gpt2", "sample", FOX, seed=11, max_bytes=60),
    call("plain-llama", "llama", "sample", TALE, seed=12, max_bytes=60),
    call("plain-gemma3", "gemma3", "sample", "Привет, ми", seed=13, max_bytes=60),
    call("plain-recurrent", "mamba", "sample", "the the", seed=14, max_bytes=40),
    call("plain-of-four", "gpt2", "sample", CODE, n=4, seed=15, max_bytes=30),
    call("cold", "gpt2", "sample", FOX, seed=16, temperature=0.4, max_bytes=50),
    call("hot", "gemma3", "sample", FOX, seed=17, temperature=1.7, max_bytes=50),
    call("top-k", "llama", "sample", CODE, seed=18, top_k=3, max_bytes=50),
    call("top-k-hot", "gemma3", "sample", "x = 12", seed=19, top_k=7, temperature=1.3, max_bytes=50),
    call("top-p", "gpt2", "sample", "a\n\n  b", seed=20, top_p=0.8, max_bytes=50),
    call("top-p-of-three", "llama", "sample", FOX, n=3, seed=21, top_p=0.5, max_bytes=25),
    call("min-p", "gemma3", "sample", TALE, seed=22, min_p=0.1, max_bytes=50),
    call(
        "all-filters", "gpt2", "sample", TALE, seed=23, temperature=0.9, top_k=20, top_p=0.9, min_p=0.02, max_bytes=50
    ),
    call("stop", "gpt2", "sample", FOX, seed=24, stop="qq", max_bytes=60),
    call("stops", "llama", "sample", CODE, n=3, seed=25, stop=["The ", b"\x0b\xee", "zzz"], max_bytes=60),
    call("processor", "gpt2", "sample", CODE, seed=26, logits_processor=no_e, max_bytes=40),
    call("processor-greedy", "gemma3", "sample", CODE, temperature=0, logits_processor=no_byte_twice, max_bytes=30),
    call("batch", "gpt2", "sample_batch", [FOX, CODE, "", FOX, "你好，世"], seed=27, max_bytes=25),
    call("batch-greedy", "llama", "sample_batch", [TALE, "I'm", "return\n"], temperature=0, max_bytes=25),
    call("stream", "gemma3", "stream", MIXED, seed=28, max_bytes=60),
    call("stream-stop", "gpt2", "stream", CODE, seed=29, stop=[" the", "WWW"], top_p=0.95, max_bytes=60),
    # one model: in the middle
    call("infill-spm", "fim", "infill", "def f(x):\n    ret", "\n\nprint(f(1))\n", mode="spm", seed=30, max_bytes=40),
    call(
        "infill-psm",
        "fim",
        "infill",
        "def f(x):\n    ret",
        "\n\nprint(f(1))\n",
        mode="psm",
        carry="none",
        seed=31,
        max_bytes=40,
    ),
    call("infill-left", "fim", "infill", FOX, " over the dog", mode="left", seed=32, max_bytes=40),
    call("infill-of-two", "fim", "infill", "the th", " the", mode="auto", n=2, seed=33, top_k=9, max_bytes=25),
    # one model: numbers
    call("row", "gpt2", "next_byte_logprobs", CODE),
    call("row-inside-a-character", "llama", "next_byte_logprobs", b"na\xc3"),
    call("score", "gpt2", "logprob", "urn n\n", prefix=CODE),
    call("score-end", "gemma3", "logprob", MIXED, prefix="", eot=True),
    call("score-bytes", "llama", "byte_logprobs", "wn fox, naïve…", prefix=FOX),
    call("score-bytes-recurrent", "mamba", "byte_logprobs", "me there was", prefix=TALE),
    call("cover-gpt2", "gpt2", "cover", "the th"),
    call("cover-gemma3", "gemma3", "cover", "return fib"),
    call(
        "state",
        "gpt2",
        "state",
        CODE,
        moves=(("advance", "urn"), ("advance", b" n\n"), ("rollback", 2), ("advance", "x"), ("rollback", 3)),
    ),
    # ensembles
    call("mixture", PAIR, "sample", FOX, seed=34, max_bytes=50),
    call("mixture-top-p", PAIR, "sample", CODE, n=2, seed=35, top_p=0.9, temperature=0.8, max_bytes=25),
    call("mixture-greedy", PAIR, "sample", TALE, temperature=0, max_bytes=30),
    call("mixture-score", PAIR, "logprob", "wn fox jumps", prefix=FOX),
    call("bayes", TRIO, "sample", TALE, seed=36, max_bytes=40),
    call("bayes-batch", TRIO, "sample_batch", [FOX, "x = 12"], seed=37, min_p=0.05, max_bytes=25),
    call("bayes-score-bytes", TRIO, "byte_logprobs", "me — 2", prefix=TALE),
    call("product", SQUARED, "sample", CODE, seed=38, max_bytes=40),
    call("product-stream", SQUARED, "stream", "the the", seed=39, top_k=5, max_bytes=40),
    call("product-row", SQUARED, "next_byte_logprobs", FOX),
    call("product-processor", SQUARED, "sample", FOX, seed=40, logits_processor=no_e, max_bytes=20),
    call("nested", NESTED, "sample", FOX, seed=41, max_bytes=30),
    call("nested-score", NESTED, "logprob", "wn fox", prefix=FOX),
    call("nested-in-bayes", IN_BAYES, "sample", CODE, seed=42, top_k=12, max_bytes=30),
    call("nested-state", IN_BAYES, "state", FOX, moves=(("advance", "wn"), ("rollback", 3), ("advance", "o "))),
    call("infill-ensemble", Mix(("fim", "gpt2")), "infill", FOX, " dog", mode="left", seed=43, max_bytes=25),
)

DEMO_PAIR = Mix(("demo", "demo-gemma"), "mixture", (0.7, 0.3))
ADD = ("def add(a, b):\n    ret", "\n\nprint(add(1, 2))\n")
MEAN = ("def mean(values):\n    total = 0\n    for v in val", ":\n        total += v\n    return total / len(values)\n")

REAL_CALLS: Final = (
    call("demo-greedy", "demo", "sample", CODE, temperature=0, max_bytes=43),
    call("demo-plain", "demo", "sample", FRANCE, seed=1, max_bytes=60),
    call("demo-plain-of-three", "demo", "sample", TALE, n=3, seed=2, max_bytes=40),
    call("demo-cold", "demo", "sample", PRIMES, seed=3, temperature=0.5, max_bytes=50),
    call("demo-top-k", "demo", "sample", FRANCE, seed=4, top_k=5, max_bytes=50),
    call("demo-top-p", "demo", "sample", TALE, seed=5, top_p=0.9, max_bytes=50),
    call("demo-min-p", "demo", "sample", "Water boils at a temper", seed=6, min_p=0.1, max_bytes=50),
    call("demo-stop", "demo", "sample", FRANCE, seed=7, stop=[".", "\n"], max_bytes=60),
    call("demo-batch", "demo", "sample_batch", [FRANCE, CODE, "naïve caf", ""], seed=8, max_bytes=25),
    call("demo-stream", "demo", "stream", "L’été, la mer est bl", seed=9, max_bytes=40),
    call("demo-processor", "demo", "sample", TALE, seed=10, logits_processor=no_e, max_bytes=20),
    call("demo-row", "demo", "next_byte_logprobs", CODE),
    call("demo-score", "demo", "logprob", "nce is Paris.", prefix=FRANCE),
    call("demo-score-bytes", "demo", "byte_logprobs", "urn n\n", prefix=CODE),
    call("demo-cover", "demo", "cover", FRANCE),
    call("demo-state", "demo", "state", FRANCE, moves=(("advance", "nce is"), ("rollback", 4), ("advance", "e, "))),
    call("demo-fim-spm", "demo-fim", "infill", *ADD, mode="spm", temperature=0, max_bytes=40),
    call("demo-fim-spm-plain", "demo-fim", "infill", *MEAN, mode="spm", n=2, seed=11, max_bytes=30),
    call("demo-fim-psm", "demo-fim", "infill", *ADD, mode="psm", carry="none", seed=12, max_bytes=40),
    call("demo-fim-left", "demo-fim", "infill", *MEAN, mode="left", seed=13, stop="\n", max_bytes=40),
    call("demo-gemma-greedy", "demo-gemma", "sample", FRANCE, temperature=0, max_bytes=30),
    call("demo-gemma-plain", "demo-gemma", "sample", TALE, seed=14, max_bytes=40),
    call("demo-gemma-cover", "demo-gemma", "cover", FRANCE),
    call("demo-mixture", DEMO_PAIR, "sample", TALE, seed=15, max_bytes=40),
    call("demo-bayes", Mix(("demo", "demo-gemma"), "bayes"), "sample", FRANCE, seed=16, top_p=0.9, max_bytes=30),
    call("demo-product", Mix(("demo", "demo-gemma"), "product"), "sample", PRIMES, seed=17, max_bytes=20),
    call("demo-mixture-score", DEMO_PAIR, "logprob", "me there was", prefix=TALE),
    call("demo-nested-score", Mix((DEMO_PAIR, "demo-fim"), "bayes"), "logprob", "nce", prefix=FRANCE),
)

CALLS: Final = TINY + REAL_CALLS

# ---- the models


class Models(dict[str, Any]):
    """Byte models by name, each made when it is first asked for."""

    def __missing__(self, name: str) -> Any:
        self[name] = ByteLM.from_pretrained(name) if name in REAL else tiny(name)
        return self[name]


def tiny(name: str) -> ByteLM:
    """A tiny random model."""
    helpers = tiny_helpers()
    # Of characters that are equally frequent, the trainer keeps other ones in each process: here it keeps them all.
    plain = {"corpus": [text for text in helpers.CORPUS if text.isascii()], "alphabet": 256}
    starcoder = {"eos": "<|endoftext|>", "special": SENTINELS}
    tokenizers: dict[str, Callable[[], Any]] = {
        "gpt2": helpers.byte_bpe_tokenizer,
        "llama": lambda: helpers.sentencepiece_bpe_tokenizer(prepend=True, **plain),
        "gemma3": lambda: helpers.sentencepiece_bpe_tokenizer(added=("  ", "    ", "\n\n"), **plain),
        "mamba": lambda: helpers.byte_bpe_tokenizer(vocab_size=293, pre_tokenizer="llama3"),
        "fim": lambda: helpers.byte_bpe_tokenizer(**starcoder),
    }
    kind = "llama" if name == "fim" else name
    tokenizer = tokenizers[name]()
    model = helpers.tiny_model(kind, vocab_size=len(tokenizer) + 6)
    return ByteLM(settled(model, seed=list(tokenizers).index(name)), tokenizer)


def tiny_helpers() -> Any:
    """The module that makes tiny models, in this layout or the one before."""
    try:
        return import_module("tests.support.tiny")
    except ModuleNotFoundError:
        return import_module("tests.tiny")


def settled(model: Any, seed: int) -> Any:
    """The model with weights that are exact numbers: normal ones differ by a last digit from processor to processor."""
    import torch

    random = np.random.default_rng(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim >= 2:
            scale = 0.75 if "embed" in name or "wte" in name else 0.5
            whole = random.integers(-1024, 1025, size=tuple(parameter.shape))
            parameter.data.copy_(torch.from_numpy(whole * (scale / 1024)))
    return model


def model_of(model: str | Mix, models: Mapping[str, Any]) -> Any:
    """The byte model or the ensemble that a call is made of."""
    if isinstance(model, str):
        return models[model]
    combine: Any = model.combine
    weights = None if model.weights is None else list(model.weights)
    return Ensemble([model_of(member, models) for member in model.members], weights=weights, combine=combine)


# ---- what they answer


def results(call: Call, models: Mapping[str, Any]) -> dict[str, Any]:
    """What a call answers, as JSON holds it.

    Args:
        call: The call.
        models: By name; `Models` makes them.
    """
    lm, digits = model_of(call.model, models), 7 if call.real else 12
    answer = getattr(lm, call.method)(*call.arguments, **call.options)
    match call.method:
        case "sample" | "sample_batch" | "infill":
            return {"completions": [_completion(each, digits) for each in _listed(answer)]}
        case "stream":
            return {"text": "".join(answer)}
        case "next_byte_logprobs":
            return {"logprobs": _numbers(answer, digits)}
        case "byte_logprobs":
            return {"logprobs": _numbers(answer, digits)}
        case "logprob":
            return {"logprob": _number(answer, digits)}
        case "cover":
            likeliest = [[list(item.token_ids), _number(item.logprob, digits)] for item in answer[:12]]
            return {"count": len(answer), "likeliest": likeliest}
        case "state":
            prefixes = []
            for move, argument in call.moves:
                answer = getattr(answer, move)(argument)
                prefixes.append(answer.prefix.decode("latin-1"))
            return {"prefixes": prefixes, "logprobs": _numbers(answer.next_byte_logprobs(), digits)}
        case _:
            raise ValueError(f"what {call.method!r} answers is not recorded")


def _listed(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]


def _completion(completion: Any, digits: int) -> dict[str, Any]:
    return {
        "bytes": completion.bytes.decode("latin-1"),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "logprob": _number(completion.logprob, digits),
    }


def _numbers(values: Iterable[float], digits: int) -> list[float | None]:
    return [_number(value, digits) for value in values]


def _number(value: float, digits: int) -> float | None:
    return None if value == -math.inf else float(f"{value:.{digits}g}")


def recorded() -> dict[str, dict[str, Any]]:
    """The file: the answer of each call by its name."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def write(path: Path = FILE) -> None:
    """Make all calls and write what they answer, one call a line."""
    models = Models()
    lines = [f"{json.dumps(call.name)}: {json.dumps(results(call, models), allow_nan=False)}" for call in CALLS]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write()
