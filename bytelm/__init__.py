"""Any tokenized language model as an exact language model over bytes, with no training.

    >>> from bytelm import ByteLM
    >>> lm = ByteLM.from_pretrained("demo")  # doctest: +SKIP
    >>> lm.sample("The capital of Fra", max_bytes=20).text  # doctest: +SKIP

Reading order: lemma, vocab, viability, cover, token_lm, scheduler, sampler, byte_lm, ensemble. Importing this package
is cheap: a name brings in its module when it is first used, and a model's libraries come with the model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bytelm.byte_lm.model import ByteLM as ByteLM
    from bytelm.byte_lm.state import ByteState as ByteState
    from bytelm.cover.prefix import Prompts as Prompts
    from bytelm.engines.table import TableLM as TableLM
    from bytelm.ensemble.model import Ensemble as Ensemble
    from bytelm.errors import BytelmError as BytelmError
    from bytelm.inference.scoring import CoverItem as CoverItem
    from bytelm.sampling.completion import Completion as Completion
    from bytelm.token_lm import TokenLM as TokenLM

__version__ = "0.1.0"

_WHERE: Final = {
    "ByteLM": "byte_lm.model",
    "ByteState": "byte_lm.state",
    "BytelmError": "errors",
    "Completion": "sampling.completion",
    "CoverItem": "inference.scoring",
    "Ensemble": "ensemble.model",
    "Prompts": "cover.prefix",
    "TableLM": "engines.table",
    "TokenLM": "token_lm",
}

__all__ = ["ByteLM", "ByteState", "BytelmError", "Completion", "CoverItem", "Ensemble", "Prompts", "TableLM", "TokenLM"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
