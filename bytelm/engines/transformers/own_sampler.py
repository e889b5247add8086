"""A transformers model's own sampler: ``generate`` with the caller's temperature, filters and options.

Rules
    What is given is passed on: `TokenSampling`'s numbers, and its options by their names. What the model's own
    ``generation_config`` says is put aside, as for all draws (generate.py): a model that ships with ``top_p`` is not
    filtered unseen. Tokens are handed on from a stopping criterion, after each step; those of a search in beams, which
    are known only at its end, then.
    Sequences of different lengths go together only without options: a penalty would see the padding.

Random numbers
    ``generate`` has one stream of them for all that it draws together, torch's global one. It is seeded by the first
    sequence of the call; another call that goes on with that sequence has another seed of its. Afterwards the stream is
    as it was. So a call that is made again gives the same tokens, and what runs beside a sequence has a say in its own.

Cost
    The keys and values of a sequence that the engine has are copied into the model's own cache, and the rest alone is
    fed. Not with options that are not known to leave the cache alone: then the sequence is fed anew.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from transformers import DynamicCache, GenerationConfig, GenerationMixin, StoppingCriteriaList

from bytelm.arguments import integer, nearest, shown
from bytelm.engines.transformers import traits
from bytelm.engines.transformers.generate import Generator, Line
from bytelm.errors import InvalidArgumentError
from bytelm.token_lm import TokenSampling

# Which of its arguments are set here, or would have it return something else than token ids.
_OURS: Final = frozenset(
    {
        *("inputs", "input_ids", "inputs_embeds", "attention_mask", "past_key_values", "generation_config", "self"),
        *("bos_token_id", "pad_token_id", "decoder_start_token_id", "synced_gpus", "kwargs", "use_cache"),
        *("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"),
    }
)
# Options that change the scores alone, or end a text.
_SCORES: Final = frozenset(
    {
        *("logits_processor", "stopping_criteria", "repetition_penalty", "no_repeat_ngram_size", "typical_p"),
        *("epsilon_cutoff", "eta_cutoff", "top_h", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
        *("sequence_bias", "min_new_tokens", "min_length", "max_time", "prefix_allowed_tokens_fn"),
        *("exponential_decay_length_penalty", "renormalize_logits", "remove_invalid_values", "watermarking_config"),
    }
)
_ONE_AT_A_TIME: Final = frozenset({"assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"})


class Kept(NamedTuple):
    """What the engine has of some sequences.

    Attributes:
        layers: Of each layer the keys and values, [batch, heads, length, ...]; None where it has none.
        length: Of how many tokens, padding included.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor] | None]
    length: int


def check_options(sampling: TokenSampling) -> None:
    """See that ``generate`` has these options.

    Raises:
        InvalidArgumentError: It has none of that name, or one that is set here.
    """
    configured = GenerationConfig().to_dict()
    known = sorted({*configured, *inspect.signature(GenerationMixin.generate).parameters} - _OURS)
    for name, value in sampling.options.items():
        if name in _OURS:
            raise InvalidArgumentError(
                f"{name} of transformers' generate is set by bytelm, and cannot be given in engine_options; give the "
                "other options of generate one by one"
            )
        if name not in known:
            raise InvalidArgumentError(
                f"transformers' generate has no option {name}, given in engine_options: {nearest(name, known)}"
            )
        if name in ("logits_processor", "stopping_criteria") and not isinstance(value, list | tuple):
            raise InvalidArgumentError(f"{name} in engine_options is a list of functions; got {shown(value)}")
    if (beams := sampling.options.get("num_beams")) is not None and integer("num_beams", beams) < 1:
        raise InvalidArgumentError(f"num_beams must be at least 1; got {beams}")
    try:
        GenerationConfig(**{name: value for name, value in sampling.options.items() if name in configured}).validate()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"transformers' generate refuses these engine_options: {error}") from error


def goes_together(sampling: TokenSampling, *, max_batch: int) -> tuple[bool, int]:
    """Whether sequences of different lengths may be one batch, and how many sequences."""
    return not sampling.options, 1 if _ONE_AT_A_TIME & sampling.options.keys() else max_batch


def sample(generator: Generator, kept: Callable[[Sequence[Sequence[int]]], Kept], lines: list[Line]) -> None:
    """Have ``generate`` write after some lines, in one call.

    Args:
        generator: The model.
        kept: Looks up what the engine has of sequences.
        lines: The sequences; their draws have one ``sampling``.
    """
    sampling = lines[0].draw.sampling
    if sampling is None:
        raise InvalidArgumentError("a draw of the engine's own sampler does not say how")
    batch, usage = generator.batch(lines), generator.usage
    width = batch.ids.shape[1]
    options: dict[str, Any] = {**sampling.options}
    theirs = StoppingCriteriaList([*(options.pop("stopping_criteria", None) or ())])
    beams = (options.get("num_beams") or 1) > 1
    fed = int(batch.mask.sum())
    if batch.cached and sampling.options.keys() <= _SCORES:
        layers, length = kept([line.ids[:-1] for line in lines])
        if length:
            options["past_key_values"] = cache = DynamicCache(config=generator.model.config)
            for index, layer in enumerate(layers):
                if layer is not None:
                    cache.update(*layer, index)
            fed -= int(batch.mask[:, :length].sum())
    usage.tokens_fed += fed if batch.cached else 0
    seen, first = width, True

    def told(input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        """Hand on what is new, and tell which sequences are done."""
        nonlocal seen, first
        usage.calls += 1
        rows = [len(line.ids) for line in lines if line.left] if not beams else [input_ids.shape[1]] * len(input_ids)
        if not batch.cached:
            usage.tokens_fed += sum(rows)
        elif not first:
            usage.tokens_fed += len(rows)
        first = False
        over: torch.Tensor = theirs(input_ids, scores, **more)
        if beams:
            return over
        _hand_on(lines, input_ids[:, seen:])
        seen = input_ids.shape[1]
        for line, done in zip(lines, over.tolist(), strict=True):
            line.left = 0 if done else line.left
        return torch.tensor([not line.left for line in lines], device=input_ids.device)

    warm: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        warm |= {"temperature": sampling.temperature, "top_k": sampling.top_k or 0}
        warm |= {"top_p": 1.0 if sampling.top_p is None else sampling.top_p, "min_p": sampling.min_p}
    ends = sorted(sampling.eot_ids)
    with _seeded(int(lines[0].random.integers(2**63)), generator.model):
        made = generator.run(
            batch,
            stopping_criteria=StoppingCriteriaList([told]),
            eos_token_id=ends or None,
            pad_token_id=next(iter(ends), 0),
            **warm,
            **options,
        )
    _hand_on(lines, made[:, seen:])
    if made.shape[1] - width < batch.most:  # it was not the longest one's context that ended it
        for line in lines:
            line.left = 0


def _hand_on(lines: Sequence[Line], new: torch.Tensor) -> None:
    for line, tokens in zip(lines, new.tolist(), strict=True):
        for token in tokens:
            if line.left:
                line.take(token, math.nan)


@contextlib.contextmanager
def _seeded(seed: int, model: Any) -> Iterator[None]:
    """Torch's global random numbers, seeded for as long as this lasts."""
    device = traits.unwrapped(model).device
    kinds: dict[str, Any] = {} if device.type in ("cpu", "meta") else {"device_type": device.type}
    devices = [device] if kinds else []
    with torch.random.fork_rng(devices=devices, **kinds):
        torch.manual_seed(seed)
        yield
