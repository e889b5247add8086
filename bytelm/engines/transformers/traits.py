"""What a transformers model says about itself: the ids that end a text, its context, and how its attention is masked.

Rules
    Read from the configuration and the class, never from a model's name. What cannot be established is treated as the
    case that is slower and right.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"


def context_length(model: Any) -> int | None:
    """The longest sequence that the model has positions for; None where it has no such limit."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(text_config(model), name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def cacheable_length(model: Any) -> int | None:
    """The longest sequence whose keys do not depend on its length; None: they never do.

    With the rotary embedding called "longrope" they do: past a length, every key is another one, earlier ones too.
    """
    config = text_config(model)
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
