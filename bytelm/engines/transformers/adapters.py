"""What the adapters of peft do to a model that the engine has to know. peft itself is not imported.

Rules
    An adapter that changes weights (LoRA and its kin) is part of the model, and nothing else has to be known of it.
    *Prompt learning* (prompt, prefix and P-tuning, CPT, cartridges) puts virtual tokens in front of each sequence. They
    take up positions. peft puts them there anew in each pass, in a cache of its own or as embeddings, so such a model
    runs without our cache.
    *Activated LoRA* is switched on by the last occurrence of some tokens, so that a later token changes earlier rows:
    each sequence is run by itself.
"""

from __future__ import annotations

import contextlib
from typing import Any

from bytelm.engines.transformers.traits import unwrapped


def active_configs(model: Any) -> list[Any]:
    """The peft configurations of the adapters that are switched on."""
    model = getattr(model, "_orig_mod", model)
    owner = model if hasattr(model, "peft_config") else unwrapped(model)
    configs = getattr(owner, "peft_config", None)
    if not isinstance(configs, dict) or not getattr(owner, "has_active_enabled_adapter", True):
        return []
    names = getattr(owner, "active_adapters", ())
    if callable(names):  # of a model of transformers, which does not know of adapters that peft put into it
        with contextlib.suppress(ValueError):
            names = names()
    return [] if callable(names) else [configs[name] for name in names if name in configs]


def methods(model: Any) -> str:
    """The names of the adapters' methods, as peft spells them; empty where there is no adapter.

    >>> methods(object())
    ''
    """
    kinds = (getattr(config, "peft_type", "?") for config in active_configs(model))
    return ", ".join(dict.fromkeys(str(getattr(kind, "value", kind)) for kind in kinds))


def virtual_tokens(model: Any) -> int:
    """How many virtual tokens stand in front of each sequence."""
    return sum(int(config.num_virtual_tokens) for config in active_configs(model) if _learns_prompt(config))


def uncacheable(model: Any) -> str | None:
    """Why keys and values cannot be kept from pass to pass, or None where the adapters do not stand in the way."""
    if any(_learns_prompt(config) for config in active_configs(model)):
        return f"its adapter ({methods(model)}) puts virtual tokens in front of each pass"
    return inseparable(model)


def inseparable(model: Any) -> str | None:
    """Why rows of prefixes cannot be read off a longer sequence, or None where the adapters do not stand in the way."""
    if any(getattr(config, "alora_invocation_tokens", None) for config in active_configs(model)):
        return "its adapter is switched on by tokens, later ones included"
    return None


def _learns_prompt(config: Any) -> bool:
    return bool(getattr(config, "is_prompt_learning", False))
