"""llama.cpp's own sampler: a chain of its samplers that takes a row and gives a token.

Rules
    The samplers and their order are llama.cpp's own: bias and grammar, penalties, DRY, top-n-sigma, top-k, typical-p,
    top-p, min-p, XTC, and the temperature last; or Mirostat after the temperature. At temperature 0 the likeliest
    token is left by bias, grammar and penalties. Those that change nothing are left out.
    Penalties see the sequence from its first token on, the prompt included; a grammar sees what is written alone.
    Options have the names of llama.cpp's command line, or those that llama-cpp-python has for them.

Traps
    A chain owns its samplers, and is freed with them. llama.cpp takes a bad grammar with a null pointer, and aborts the
    process on some values, so values are checked here.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from bytelm.arguments import integer, nearest, number, shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.token_lm import TokenSampling

# What options there are, and the values that change nothing, or llama.cpp's own.
_DEFAULTS: Final[Mapping[str, Any]] = {
    "repeat_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "penalty_last_n": 64,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "dry_sequence_breakers": ("\n", ":", '"', "*"),
    "top_n_sigma": -1.0,
    "typical_p": 1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "logit_bias": {},
    "grammar": "",
}
_SEEDS: Final = 2**32 - 1  # the last one stands for "any"
_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Sampler:
    """A chain for one sequence.

    Args:
        lib: The module `llama_cpp`.
        vocab: llama.cpp's pointer.
        columns: Of a row.
        context_length: The longest sequence.
        sampling: How to draw.
        seed: Of the draws.
        before: The tokens of the sequence so far.

    Raises:
        InvalidArgumentError: There is no such option, or a value is none.
    """

    def __init__(
        self,
        lib: Any,
        vocab: Any,
        columns: int,
        context_length: int,
        sampling: TokenSampling,
        seed: int,
        before: Sequence[int] = (),
    ) -> None:
        self._lib = lib
        given = _checked(sampling.options, columns)
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self.close: Any = weakref.finalize(self, lib.llama_sampler_free, self._chain)
        seed, temperature = seed % _SEEDS, sampling.temperature
        if bias := given["logit_bias"]:
            entries = (lib.llama_logit_bias * len(bias))(*((int(i), float(b)) for i, b in bias.items()))
            self._add(lib.llama_sampler_init_logit_bias(columns, len(bias), entries))
        if given["grammar"]:
            grammar = lib.llama_sampler_init_grammar(vocab, given["grammar"].encode(), b"root")
            if not grammar:
                raise InvalidArgumentError(f"llama.cpp cannot read the grammar {shown(given['grammar'])}")
            self._add(grammar)
        penalties = [given[name] for name in ("repeat_penalty", "frequency_penalty", "presence_penalty")]
        if penalties != [1, 0, 0]:
            last = context_length if given["penalty_last_n"] < 0 else given["penalty_last_n"]
            self._add(lib.llama_sampler_init_penalties(columns, last, *penalties), before)
        if given["dry_multiplier"]:
            last = context_length if given["dry_penalty_last_n"] < 0 else given["dry_penalty_last_n"]
            texts = [text.encode() for text in given["dry_sequence_breakers"]]
            numbers = given["dry_multiplier"], given["dry_base"], given["dry_allowed_length"], last
            breakers = (ctypes.c_char_p * len(texts))(*texts)
            self._add(lib.llama_sampler_init_dry(vocab, *numbers, breakers, len(texts)), before)
        if temperature == 0:
            self._add(lib.llama_sampler_init_greedy())
        elif given["mirostat"]:
            tau, eta = given["mirostat_tau"], given["mirostat_eta"]
            self._add(lib.llama_sampler_init_temp(temperature))
            if given["mirostat"] == 1:
                self._add(lib.llama_sampler_init_mirostat(columns, seed, tau, eta, 100))
            else:
                self._add(lib.llama_sampler_init_mirostat_v2(seed, tau, eta))
        else:
            self._filter(sampling, given, seed)

    def _filter(self, sampling: TokenSampling, given: Mapping[str, Any], seed: int) -> None:
        lib = self._lib
        if given["top_n_sigma"] > 0:
            self._add(lib.llama_sampler_init_top_n_sigma(given["top_n_sigma"]))
        if sampling.top_k is not None:
            self._add(lib.llama_sampler_init_top_k(sampling.top_k))
        if given["typical_p"] < 1:
            self._add(lib.llama_sampler_init_typical(given["typical_p"], 1))
        if sampling.top_p is not None and sampling.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p:
            self._add(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        if given["xtc_probability"] > 0:
            self._add(lib.llama_sampler_init_xtc(given["xtc_probability"], given["xtc_threshold"], 1, seed))
        if given["dynatemp_range"] > 0:
            spread = given["dynatemp_range"], given["dynatemp_exponent"]
            self._add(lib.llama_sampler_init_temp_ext(sampling.temperature, *spread))
        elif sampling.temperature != 1:
            self._add(lib.llama_sampler_init_temp(sampling.temperature))
        self._add(lib.llama_sampler_init_dist(seed))

    def _add(self, sampler: Any, seen: Sequence[int] = ()) -> None:
        for token in seen:
            self._lib.llama_sampler_accept(sampler, token)
        self._lib.llama_sampler_chain_add(self._chain, sampler)

    def choose(self, row: Float32[np.ndarray, " columns"]) -> int:
        """Draw a token from a row of log-probabilities, and take it as written."""
        lib = self._lib
        candidates = np.zeros(len(row), _CANDIDATE)
        candidates["id"], candidates["logit"] = np.arange(len(row)), row
        data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        array = lib.llama_token_data_array(data=data, size=len(row), selected=-1, sorted=False)
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)  # samplers may have moved the data
        lib.llama_sampler_accept(self._chain, token)
        return token


def _checked(options: Mapping[str, Any], columns: int) -> dict[str, Any]:
    """The options with their defaults."""
    found = dict(_DEFAULTS)
    for name, value in options.items():
        default = _DEFAULTS.get(name)
        if default is None:
            raise InvalidArgumentError(
                f"llama.cpp's sampler has no option {name}, given in engine_options: {nearest(name, sorted(_DEFAULTS))}"
            )
        if isinstance(default, float):
            found[name] = number(name, value)
            if not math.isfinite(found[name]):
                raise InvalidArgumentError(f"{name} must be finite; got {shown(value)}")
        elif isinstance(default, int):
            found[name] = integer(name, value)
        elif isinstance(default, str | tuple):
            parts = [value] if isinstance(default, str) else [*value] if isinstance(value, list | tuple) else [None]
            if not all(isinstance(part, str) and "\0" not in part for part in parts):
                what = "text" if isinstance(default, str) else "a list of texts"
                raise InvalidTypeError(f"{name} must be {what}; got {shown(value)}")
            found[name] = value
        else:
            if not isinstance(value, Mapping):
                raise InvalidTypeError(f"{name} must map token ids to numbers; got {shown(value)}")
            found[name] = {integer("a token id", i): number("a bias", bias) for i, bias in value.items()}
            if outside := [i for i in found[name] if not 0 <= i < columns]:
                raise InvalidArgumentError(f"{name} holds id {outside[0]}, and the model's ids are 0..{columns - 1}")
    if found["repeat_penalty"] <= 0:
        raise InvalidArgumentError(f"repeat_penalty must be above 0; got {found['repeat_penalty']}")
    if found["mirostat"] not in (0, 1, 2):
        raise InvalidArgumentError(f"mirostat is 0 (off), 1 or 2; got {found['mirostat']}")
    return found
