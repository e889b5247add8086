"""What a transformers model says about itself: the ids that end a text, its context, and how its attention is masked.

Rules
    Read from the configuration and the class, never from a model's name. What cannot be established is treated as the
    case that is slower and right.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bytelm.errors import (
    ContextOverflowError,
    InvalidArgumentError,
    InvalidTypeError,
    UnsupportedTokenizerError,
    VocabularyMismatchError,
)

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is no fast tokenizer.

    Raises:
        UnsupportedTokenizerError: It is a slow tokenizer.
        InvalidTypeError: It is something else.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        return
    name = type(tokenizer).__name__
    if hasattr(tokenizer, "is_fast"):
        raise UnsupportedTokenizerError(
            f"{name} is a slow tokenizer: it has no backend_tokenizer to read the vocabulary and the merges from; "
            "load it with AutoTokenizer.from_pretrained, or convert it to a tokenizer.json"
        )
    raise InvalidTypeError(f"tokenizer must be a transformers fast tokenizer, not {name}")


def check_vocabulary(tokenizer: Any, columns: int) -> None:
    """Refuse a tokenizer whose ordinary tokens the model has no column for.

    Special tokens beyond the last column are let be (Gemma has one): such an id cannot be scored, only never drawn.

    Raises:
        VocabularyMismatchError: An id that text can become is not below ``columns``.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= columns and i not in special}
    if beyond:
        i = max(beyond)
        raise VocabularyMismatchError(
            f"the tokenizer has {len(beyond)} ordinary token(s) beyond the model's {columns} columns, up to id {i} "
            f"({beyond[i]!r}): they are not of one another; load both from the same place"
        )


def end_ids(model: Any, tokenizer: Any, columns: int, given: Iterable[int] | None) -> frozenset[int]:
    """The ids that end a text: those given, or all that the model's and the tokenizer's configurations name.

    Raises:
        InvalidArgumentError: A given id is no column.
    """
    if given is not None:
        ids = frozenset(given)
        if not all(0 <= i < columns for i in ids):
            raise InvalidArgumentError(f"eot_ids {sorted(ids)} are not all ids in 0..{columns - 1}")
        return ids
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, _text_config(model), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple | set) else () if value is None else (value,))
    return frozenset(i for i in found if 0 <= i < columns)


def start_id(tokenizer: Any, columns: int, eot_ids: frozenset[int], given: int | None) -> int | None:
    """What stands for an empty sequence: the id given, else BOS, else an EOT id, else nothing.

    Raises:
        InvalidArgumentError: The given id is no column.
    """
    if given is not None:
        if not 0 <= given < columns:
            raise InvalidArgumentError(f"start_id {given!r} is not in 0..{columns - 1}")
        return given
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, *sorted(eot_ids))
    return next((i for i in candidates if i is not None and 0 <= i < columns), None)


def checked_ids(
    sequence: Any, *, start_id: int | None, columns: int, context_length: int | None, larger: str = ""
) -> tuple[int, ...]:
    """The ids of a sequence, found to be the model's and to fit in its context; of the empty one, ``start_id``.

    Args:
        sequence: What was asked for.
        start_id: What the empty sequence stands for, or None.
        columns: How many ids the model has.
        context_length: How long a sequence may be, or None.
        larger: How one gets a larger context, for the error.

    Raises:
        ContextOverflowError: It is longer than the context.
        InvalidTypeError: It is no sequence of ids.
        InvalidArgumentError: An id is below 0, or there is no start symbol.
        VocabularyMismatchError: An id is not below ``columns``.
    """
    if isinstance(sequence, str | bytes):
        raise InvalidTypeError(f"a sequence is token ids, not text: {sequence!r}; encode it with the tokenizer")
    try:
        ids = tuple(sequence)
        least, greatest = (min(ids), max(ids)) if ids else (0, 0)
        inside = 0 <= least <= greatest < columns
    except TypeError as error:
        raise InvalidTypeError(f"sequences must hold sequences of token ids, not {sequence!r}") from error
    if not ids:
        if start_id is None:
            raise InvalidArgumentError(
                "the empty sequence needs a start symbol, and the tokenizer has neither a BOS nor an EOT id; "
                "give start_id="
            )
        return (start_id,)
    if least < 0:
        raise InvalidArgumentError(f"id {least!r} in a sequence of {len(ids)} tokens is below 0")
    if not inside:
        raise VocabularyMismatchError(
            f"id {greatest} is beyond the model's {columns} ids; tokenizer and model are not of one another, or the id "
            "is of a token that the model was never given"
        )
    if context_length is not None and len(ids) > context_length:
        raise ContextOverflowError(
            f"a sequence of {len(ids)} tokens does not fit in the model's context of {context_length}; shorten the "
            f"prompt, keep its last part, {larger + ', ' if larger else ''}or give a stride to score a long text"
        )
    return ids


def context_full(context_length: int | None, larger: str = "") -> ContextOverflowError:
    """The error of a completion that has come to the end of the context; ``larger``: as for `checked_ids`."""
    return ContextOverflowError(
        f"a completion has come to the end of the model's context of {context_length} tokens; give a lower max_bytes "
        f"or a shorter prompt{', or ' + larger if larger else ''}"
    )


def context_length(model: Any) -> int | None:
    """The longest sequence that the model has positions for; None where it has no such limit."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(_text_config(model), name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def cacheable_length(model: Any) -> int | None:
    """The longest sequence whose keys do not depend on its length; None: they never do.

    With the rotary embedding called "longrope" they do: past a length, every key is another one, earlier ones too.
    """
    config = _text_config(model)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for kind in kinds:
        if (kind.get("rope_type") or kind.get("type")) == "longrope":
            length = kind.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return int(length or config.max_position_embeddings)
    return None


def unwrapped(model: Any) -> Any:
    """The causal model itself, without an adapter or a compiled wrapper around it."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _text_config(model: Any) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


@dataclass(frozen=True, slots=True)
class Masking:
    """How a mask of ours is handed to a model.

    Attributes:
        kinds: Attention types of its layers; where there are several, the model takes a mask for each by name.
        window: How many tokens a sliding layer sees, itself included; None where none slides.
        additive: The mask is added to the scores (0 and the lowest number), and not a boolean.
    """

    kinds: frozenset[str]
    window: int | None
    additive: bool


def masking(model: Any) -> Masking | str:
    """How the model takes a tree mask, or the reason why it cannot be trusted to."""
    core = unwrapped(model)
    config = _text_config(core)
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        return f"its attention is {attention!r}, which takes no 4D mask"
    if not getattr(core, "_supports_attention_backend", False):
        return f"{type(core).__name__} does not declare that its attention takes its mask from outside"
    kinds = frozenset(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not kinds:
        slides = window is not None and getattr(config, "use_sliding_window", True)
        kinds = frozenset({SLIDING if slides else FULL})
    if not kinds <= {FULL, SLIDING}:
        return f"its layers are of types {sorted(kinds)}"
    if SLIDING not in kinds:
        return Masking(kinds, None, additive=attention == "eager")
    if not isinstance(window, int) or not _makes_sliding_masks(core):
        return "how its sliding window is masked cannot be read from its configuration"
    return Masking(kinds, window, additive=attention == "eager")


def _makes_sliding_masks(core: Any) -> bool:
    """Whether the module that defines the model uses transformers' own sliding mask."""
    return hasattr(sys.modules[type(core).__module__], "create_sliding_window_causal_mask")


def recurrence(model: Any) -> str | None:
    """Why the model's state is no list of keys and values, or None where it may be one."""
    core = unwrapped(model)
    if getattr(core, "_is_stateful", False):
        return f"{type(core).__name__} keeps a recurrent state, which cannot be stepped back"
    return None
