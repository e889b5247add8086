"""Any tokenized language model as an exact language model over bytes, with no training.

    >>> from bytelm import ByteLM
    >>> lm = ByteLM.from_pretrained("demo")  # doctest: +SKIP
    >>> lm.sample("The capital of Fra", max_bytes=20).text  # doctest: +SKIP

Reading order: lemma, tokenizer, cover, token_lm, inference, sampling, byte_lm, ensemble (docs/architecture.md).
Importing this package is cheap: a name brings in its module when it is first used, and a model's libraries come with
the model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bytelm.arguments import Number as Number
    from bytelm.arguments import Text as Text
    from bytelm.byte_lm.model import ByteLM as ByteLM
    from bytelm.cover.prefix import Prefix as Prefix
    from bytelm.cover.prefix import Prompts as Prompts
    from bytelm.engines.table import TableLM as TableLM
    from bytelm.ensemble.attribution import Attribution as Attribution
    from bytelm.ensemble.combine import Combine as Combine
    from bytelm.ensemble.combine import Weights as Weights
    from bytelm.ensemble.model import Ensemble as Ensemble
    from bytelm.ensemble.state import EnsembleState as EnsembleState
    from bytelm.errors import BytelmError as BytelmError
    from bytelm.fim import FIMFormat as FIMFormat
    from bytelm.fim import Mode as Mode
    from bytelm.inference.scheduler import JobUsage as JobUsage
    from bytelm.inference.scoring import CoverItem as CoverItem
    from bytelm.sampling.byte_model import ByteModel as ByteModel
    from bytelm.sampling.byte_model import InfillOptions as InfillOptions
    from bytelm.sampling.completion import Completion as Completion
    from bytelm.sampling.completion import FinishReason as FinishReason
    from bytelm.sampling.completion_stream import CompletionStream as CompletionStream
    from bytelm.sampling.params import CallOptions as CallOptions
    from bytelm.sampling.params import LogitsProcessor as LogitsProcessor
    from bytelm.sampling.params import SamplingOptions as SamplingOptions
    from bytelm.sampling.params import SamplingParams as SamplingParams
    from bytelm.sampling.state import ByteState as ByteState
    from bytelm.token_lm import Abilities as Abilities
    from bytelm.token_lm import TokenLM as TokenLM
    from bytelm.token_lm import Usage as Usage

__version__ = "0.1.0"

_WHERE: Final = {
    "Abilities": "token_lm",
    "Attribution": "ensemble.attribution",
    "ByteLM": "byte_lm.model",
    "ByteModel": "sampling.byte_model",
    "ByteState": "sampling.state",
    "BytelmError": "errors",
    "CallOptions": "sampling.params",
    "Combine": "ensemble.combine",
    "Completion": "sampling.completion",
    "CompletionStream": "sampling.completion_stream",
    "CoverItem": "inference.scoring",
    "Ensemble": "ensemble.model",
    "EnsembleState": "ensemble.state",
    "FIMFormat": "fim",
    "FinishReason": "sampling.completion",
    "InfillOptions": "sampling.byte_model",
    "JobUsage": "inference.scheduler",
    "LogitsProcessor": "sampling.params",
    "Mode": "fim",
    "Number": "arguments",
    "Prefix": "cover.prefix",
    "Prompts": "cover.prefix",
    "SamplingOptions": "sampling.params",
    "SamplingParams": "sampling.params",
    "TableLM": "engines.table",
    "Text": "arguments",
    "TokenLM": "token_lm",
    "Usage": "token_lm",
    "Weights": "ensemble.combine",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
