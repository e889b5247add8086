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
    from bytelm.arguments import Number, Text
    from bytelm.byte_lm.model import ByteLM
    from bytelm.constraints import Constraint, ConstraintState
    from bytelm.cover.prefix import Prefix, Prompt, Prompts
    from bytelm.engines.table import TableLM
    from bytelm.ensemble.attribution import Attribution
    from bytelm.ensemble.combine import AnyCombine, Combine, CombineLevel, Weights
    from bytelm.ensemble.model import Ensemble
    from bytelm.ensemble.state import EnsembleState
    from bytelm.errors import BytelmError, BytelmWarning, LeakWarning, LeftOutWarning
    from bytelm.fim import Carry, Context, FIMFormat, InfillSettings, Mode, OtherFiles
    from bytelm.inference.job_usage import JobUsage
    from bytelm.inference.score import Score, ScoreRow
    from bytelm.inference.scoring import CoverItem
    from bytelm.inference.units import ScoreBy, WordSpace
    from bytelm.sampling.byte_model import ByteModel, ChatOptions, InfillOptions
    from bytelm.sampling.completion import Completion, FinishReason, Particles
    from bytelm.sampling.completion_stream import CompletionStream
    from bytelm.sampling.drafter import Drafter, Lookup
    from bytelm.sampling.endings import Ending, Endings
    from bytelm.sampling.likeliest import LikeliestOptions
    from bytelm.sampling.params import CallOptions, Level, LogitsProcessor, SamplingOptions, SamplingParams
    from bytelm.sampling.state import ByteState
    from bytelm.token_lm import Abilities, TokenLM, Usage

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "Abilities", "AnyCombine", "Attribution", "ByteLM", "ByteModel", "ByteState", "BytelmError", "BytelmWarning",
    "CallOptions", "Carry", "ChatOptions", "Combine", "CombineLevel", "Completion", "CompletionStream",
    "Constraint", "ConstraintState", "Context", "CoverItem", "Drafter", "Ending", "Endings", "Ensemble",
    "EnsembleState", "FIMFormat", "FinishReason", "InfillOptions", "InfillSettings", "JobUsage", "LeakWarning",
    "LeftOutWarning", "Level", "LikeliestOptions", "LogitsProcessor", "Lookup", "Mode", "Number", "OtherFiles",
    "Particles", "Prefix", "Prompt", "Prompts", "SamplingOptions", "SamplingParams", "Score", "ScoreBy", "ScoreRow",
    "TableLM", "Text", "TokenLM", "Usage", "Weights", "WordSpace",
]
# fmt: on
_WHERE: Final = {
    "arguments": "Number Text",
    "byte_lm.model": "ByteLM",
    "constraints": "Constraint ConstraintState",
    "cover.prefix": "Prefix Prompt Prompts",
    "engines.table": "TableLM",
    "ensemble.attribution": "Attribution",
    "ensemble.combine": "AnyCombine Combine CombineLevel Weights",
    "ensemble.model": "Ensemble",
    "ensemble.state": "EnsembleState",
    "errors": "BytelmError BytelmWarning LeakWarning LeftOutWarning",
    "fim": "Carry Context FIMFormat InfillSettings Mode OtherFiles",
    "inference.job_usage": "JobUsage",
    "inference.score": "Score ScoreRow",
    "inference.scoring": "CoverItem",
    "inference.units": "ScoreBy WordSpace",
    "sampling.byte_model": "ByteModel ChatOptions InfillOptions",
    "sampling.completion": "Completion FinishReason Particles",
    "sampling.completion_stream": "CompletionStream",
    "sampling.drafter": "Drafter Lookup",
    "sampling.endings": "Ending Endings",
    "sampling.likeliest": "LikeliestOptions",
    "sampling.params": "CallOptions Level LogitsProcessor SamplingOptions SamplingParams",
    "sampling.state": "ByteState",
    "token_lm": "Abilities TokenLM Usage",
}
_MODULES: Final = {name: module for module, names in _WHERE.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "constraints":
        return import_module("bytelm.constraints")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
