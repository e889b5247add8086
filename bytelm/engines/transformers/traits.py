"""What a transformers model says about itself: the ids that end a text, its context, and how its attention is masked.

Rules
    Read from the configuration and the class, never from a model's name. What cannot be established is treated as the
    case that is slower and right.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

from bytelm.arguments import integer
from bytelm.errors import InvalidArgumentError

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
SPARE_ROWS: Final = 8  # rows of a table of positions that stand for none


def chosen_length(model: Any, asked: object) -> int | None:
    """The longest sequence that a caller asks for, or for None the model's own.

    Raises:
        InvalidTypeError: It is no whole number.
        InvalidArgumentError: It is below 1, or beyond the model's table of positions.
    """
    if asked is None:
        return context_length(model)
    length, declared = integer("context_length", asked), declared_length(model)
    if length < 1:
        raise InvalidArgumentError(f"context_length must be at least 1, not {length}")
    if declared is not None and length > declared and has_position_table(model):
        raise InvalidArgumentError(
            f"context_length={length} is beyond the {declared} positions that the model has a table for; give at most "
            f"{declared}"
        )
    return length


def context_length(model: Any) -> int | None:
    """The longest sequence that the model has positions for; None where it has no such limit.

    Rotary embeddings that are stretched by a factor reach as many times further than in training, as transformers has
    it: "when using this flag, don't update max_position_embeddings". A table of positions ends where it ends.
    """
    config, declared = text_config(model), declared_length(model)
    if declared is None or has_position_table(model):
        return declared
    return max(declared, min((_stretched(rope, declared) for rope in _ropes(config)), default=declared))


def declared_length(model: Any) -> int | None:
    """The context that the configuration names, or None."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(text_config(model), name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def has_position_table(model: Any) -> bool:
    """Whether the model looks positions up in a table of as many as it declares, learned or computed."""
    import torch

    length = declared_length(model)
    if length is None or not isinstance(model, torch.nn.Module):
        return False
    ids = model.get_input_embeddings()  # type: ignore[operator] # of a transformers model
    tables = (m.num_embeddings for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not ids)
    buffers = (buffer.shape for buffer in model.buffers() if buffer.ndim >= 2)
    # OPT and its kin have a few rows in front.
    return any(length <= rows <= length + SPARE_ROWS for rows in tables) or any(length in shape for shape in buffers)


def cacheable_length(model: Any) -> int | None:
    """The longest sequence whose keys do not depend on its length; None: they never do.

    With the rotary embeddings called "longrope" and "dynamic" they do: past a length, every key is another one, earlier
    ones too.
    """
    config = text_config(model)
    for rope in _ropes(config):
        kind = _kind(rope)
        if kind == "longrope":
            length = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return int(length or config.max_position_embeddings)
        if "dynamic" in kind:
            return int(config.max_position_embeddings) - 1  # a sequence as long does not yet undo a longer one
    return None


def outlasts_its_pass(model: Any) -> bool:
    """Whether what a long sequence does to the model's positions stays until a short one comes."""
    return any("dynamic" in _kind(rope) for rope in _ropes(text_config(model)))


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The parameters of the rotary embedding, of every type of layer if they differ."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [value for value in rope.values() if isinstance(value, dict)] or ([rope] if rope else [])


def _kind(rope: dict[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _stretched(rope: dict[str, Any], declared: int) -> int:
    """How far one rotary embedding reaches."""
    if _kind(rope) not in ("linear", "dynamic", "yarn"):
        return declared
    trained = rope.get("original_max_position_embeddings") or declared
    return int(trained * (rope.get("factor") or declared / trained))


def unwrapped(model: Any) -> Any:
    """The causal model itself, without an adapter or a compiled wrapper around it."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def compiled(module: Any) -> bool:
    """Whether a module was given to ``torch.compile``, or compiled by its own ``compile``."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def text_config(model: Any) -> Any:
    """The configuration of the model's text part: a model of images and text has several."""
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
    config = text_config(core)
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
