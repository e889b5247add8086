"""The programs that write beside ours: each one's constraints, masks or draws, by its public interface.

Programs
    *llguidance* (``pip install llguidance``): its masks over the model's own tokens, from its public interface for
    tokenizers of transformers. Tokens that are the only way on are appended without a model call, as its documentation
    advises. The grammars are those of `bytelm.constraints`.
    *xgrammar* (``pip install xgrammar``): its matcher's masks, as its processor for transformers uses them.
    *outlines* (``pip install outlines``): the logits processor that its generator makes, whose masks are outlines-core's;
    of grammars llguidance's.
    *genlm-control* (``pip install genlm-control``), at temperature 1 alone: one particle of its sampler for tokens,
    adaptive rejection. It runs the model itself, so a hook on the model counts its calls.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from jaxtyping import Bool

from bytelm import ByteLM, Constraint, constraints
from bytelm.constraints import Choice, Grammar
from evals.constraints.cases import Case
from evals.constraints.peers import Matcher, OverTokens, Peer, RefusedError, Written, hugging_face, refusing
from evals.report.clocked import Used

MOST_TOKENS: Final = 256  # of a program that counts no bytes


# ---- llguidance


class Llguidance(OverTokens):
    """llguidance over the tokens of a model."""

    def __init__(self, lm: ByteLM) -> None:
        from llguidance.hf import from_tokenizer

        super().__init__(lm)
        ends = sorted(lm.eot_ids) or None
        self._tokenizer = from_tokenizer(lm.tokenizer, n_vocab=lm.token_lm.vocab_size, eos_token=ends)

    def made(self, case: Case) -> str:  # noqa: D102
        return grammar_of(case.constraint())

    def matcher(self, made: str) -> Matcher:  # noqa: D102
        from llguidance import LLMatcher

        return _ByLlguidance(LLMatcher(self._tokenizer, made, log_level=0), self._lm.token_lm.vocab_size)


class _ByLlguidance:
    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher, self._size = matcher, size

    @property
    def done(self) -> bool:
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def forced(self) -> list[int]:
        return list(self._matcher.compute_ff_tokens())

    def allowed(self) -> Bool[np.ndarray, " vocab"]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)

    def take(self, tokens: Sequence[int]) -> bool:
        return bool(self._matcher.consume_tokens([*tokens]))


def grammar_of(constraint: Constraint) -> str:
    """A constraint in llguidance's own form.

    >>> grammar_of(constraints.choice(["a", "b"])) == grammar_of(constraints.regex("a|b"))
    True
    """
    match constraint:
        case Grammar():
            return constraint.grammar
        case Choice():
            return constraints.regex(one_of(text.decode() for text in constraint.options)).grammar
        case _:
            raise TypeError(f"llguidance knows no {type(constraint).__name__}")


def one_of(texts: Iterable[str]) -> str:
    r"""A regular expression that matches some texts.

    >>> one_of(["a.b", "c"])
    'a\\.b|c'
    """
    return "|".join(map(re.escape, texts))


# ---- xgrammar


class Xgrammar(OverTokens):
    """xgrammar over the tokens of a model."""

    def __init__(self, lm: ByteLM) -> None:
        import xgrammar

        super().__init__(lm)
        size, ends = lm.token_lm.vocab_size, sorted(lm.eot_ids) or None
        tokens = xgrammar.TokenizerInfo.from_huggingface(lm.tokenizer, vocab_size=size, stop_token_ids=ends)
        self._compiler = xgrammar.GrammarCompiler(tokens)

    def made(self, case: Case) -> Any:  # noqa: D102
        compiler = self._compiler
        make: Mapping[str, Callable[[Any], Any]] = {
            "schema": lambda schema: compiler.compile_json_schema(
                json.dumps(schema), any_whitespace=False, separators=(",", ":"), strict_mode=False
            ),
            "regex": compiler.compile_regex,
            "choice": lambda texts: compiler.compile_regex(one_of(texts)),
            "lark": compiler.compile_lark,
            "gbnf": compiler.compile_grammar,
        }
        with refusing("xgrammar"):
            return make[case.kind](case.given)

    def matcher(self, made: Any) -> Matcher:  # noqa: D102
        return _ByXgrammar(made, self._lm.token_lm.vocab_size)


class _ByXgrammar:
    def __init__(self, made: Any, size: int) -> None:
        import xgrammar

        self._matcher, self._size = xgrammar.GrammarMatcher(made), size
        self._bits = xgrammar.allocate_token_bitmask(1, size)

    @property
    def done(self) -> bool:
        return bool(self._matcher.is_terminated())

    def forced(self) -> list[int]:
        return []

    def allowed(self) -> Bool[np.ndarray, " vocab"]:
        self._matcher.fill_next_token_bitmask(self._bits)
        bits = self._bits.numpy()[0].view(np.uint8)
        return np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)

    def take(self, tokens: Sequence[int]) -> bool:
        return all(self._matcher.accept_token(token) for token in tokens)


# ---- outlines


class Outlines(OverTokens):
    """outlines over the tokens of a model of transformers."""

    def __init__(self, lm: ByteLM) -> None:
        import outlines

        super().__init__(lm)
        self._model = outlines.from_transformers(hugging_face(lm), lm.tokenizer)

    def made(self, case: Case) -> Any:  # noqa: D102
        import outlines
        from outlines.types import CFG, JsonSchema, Regex

        kinds: Mapping[str, Callable[[Any], Any]] = {
            "schema": lambda schema: JsonSchema(schema, whitespace_pattern="", ensure_ascii=False),
            "regex": Regex,
            "choice": lambda texts: Regex(one_of(texts)),
            "lark": CFG,
        }
        if case.kind not in kinds:
            raise RefusedError(f"outlines has no {case.kind}")
        with refusing("outlines"):
            return outlines.Generator(self._model, kinds[case.kind](case.given)).logits_processor

    def matcher(self, made: Any) -> Matcher:  # noqa: D102
        made.reset()
        return _ByProcessor(made, self._lm.token_lm.vocab_size)


class _ByProcessor:
    """A processor of logits, whose masks show in logits that are all 0."""

    done = False  # it says so by its masks

    def __init__(self, processor: Any, size: int) -> None:
        self._processor, self._size = processor, size
        self._ids = [0]  # a prompt, which it does not look at

    def forced(self) -> list[int]:
        return []

    def allowed(self) -> Bool[np.ndarray, " vocab"]:
        import torch

        made = self._processor(torch.tensor([self._ids]), torch.zeros(1, self._size))
        mask: Bool[np.ndarray, " vocab"] = made[0].numpy() > -np.inf
        return mask

    def take(self, tokens: Sequence[int]) -> bool:
        self._ids += tokens
        return True


# ---- genlm-control


class GenlmControl(Peer):
    """One particle of genlm-control on a model of transformers."""

    draws_alone = True

    def __init__(self, lm: ByteLM) -> None:
        from genlm.backend.llm import AsyncTransformer
        from genlm.control import PromptedLLM

        super().__init__(lm)
        self._model = hugging_face(lm)
        self._loop = asyncio.Runner()
        ends = [lm.tokenizer.convert_ids_to_tokens(i).encode() for i in sorted(lm.eot_ids)]
        self._engine = AsyncTransformer(self._model, lm.tokenizer)
        self._llm = PromptedLLM(self._engine, eos_byte_strings=ends)

    def made(self, case: Case) -> Any:  # noqa: D102
        from genlm.control import BoolCFG, BoolFSA, JsonSchema

        kinds: Mapping[str, Callable[[Any], Any]] = {
            "schema": JsonSchema,
            "regex": BoolFSA.from_regex,
            "choice": lambda texts: BoolFSA.from_regex(one_of(texts)),
            "lark": BoolCFG.from_lark,
        }
        if case.kind not in kinds:
            raise RefusedError(f"genlm-control has no {case.kind}")
        with refusing("genlm-control"):
            return kinds[case.kind](case.given).coerce(self._llm, f=b"".join)

    def complete(self, made: Any, prompt: str, size: int, *, greedy: bool, seed: int) -> Written:  # noqa: D102
        del greedy
        return self._loop.run(self._complete(made, prompt, size, seed))

    async def _complete(self, made: Any, prompt: str, size: int, seed: int) -> Written:
        from genlm.control import AWRS, EOS

        self._engine.clear_cache()
        self._llm.prompt_ids = self.before(prompt)
        sampler = AWRS(self._llm, made, seed=seed)
        found = await sampler.smc(n_particles=1, ess_threshold=0, max_tokens=MOST_TOKENS)
        await sampler.cleanup()
        (tokens,) = found.contexts
        ended = bool(tokens) and tokens[-1] is EOS
        written = b"".join(bytes(token) for token in tokens if token is not EOS)
        if not ended and not np.isfinite(found.log_weights).all():
            return Written(written, "stuck")
        return Written(written[:size], "eot" if ended and len(written) <= size else "length")

    @contextmanager
    def counted(self) -> Iterator[Used]:  # noqa: D102
        used = Used()

        def count(module: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
            del module
            ids: Any = named["input_ids"] if "input_ids" in named else arguments[0]
            used.calls += 1
            used.fed += int(ids.numel())

        hook = self._model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield used
        finally:
            hook.remove()


PEERS: Final[Mapping[str, type[Peer]]] = MappingProxyType(
    {"llguidance": Llguidance, "xgrammar": Xgrammar, "outlines": Outlines, "genlm-control": GenlmControl}
)
