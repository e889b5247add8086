r"""The lm-eval model: lm-evaluation-harness over bytes, for one model, an ensemble, or the token-level baseline.

    lm-eval run --model bytelm --model_args pretrained=demo --tasks piqa
    lm-eval run --model bytelm --model_args "members=demo;demo-gemma,combine=bayes,weights=0.7;0.3" --tasks piqa
    lm-eval run --model bytelm --model_args pretrained=demo,level=token --tasks piqa

lm-eval finds it by the entry point ``lm_eval.models``; a version that knows no entry points is run by ``bytelm eval``,
which takes lm-eval's own arguments. It is importing this module that needs lm-eval.

Rules
    byte_requests.py has the numbers; this file has lm-eval's interface. Requests with the same context are one step,
    and contexts are taken in alphabetical order, so that those which begin alike follow one another in the engine's
    cache. Results come in the order of the requests. Each goes to lm-eval's cache when it is there: what was finished
    before an error is kept, where ``--use_cache`` was given.
    lm-eval's cache knows a request by its text alone. Here each model has a table of its own in the file, by a digest
    of its weights, tokenizer, level and settings (`ByteModel.fingerprint`), so that several may share it.
    lm-eval counts new tokens, and models count them differently: ``max_gen_toks`` becomes ``bytes_per_token`` times as
    many bytes, the same for every model and level.
    In parallel over data by lm-eval's own means: one process for each part, begun by accelerate or torchrun.

Does not
    Run code (tasks that run what was generated); take images or sound.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import handle_arg_string

from bytelm.arguments import integer, number, one_of, stride_of
from bytelm.byte_lm.model import ByteLM
from bytelm.ensemble.combine import ALPHA
from bytelm.ensemble.model import Ensemble
from bytelm.errors import InvalidArgumentError
from bytelm.harness.byte_requests import ByteRequests, Requests, Scored
from bytelm.harness.chat import Chat, packed
from bytelm.harness.token_requests import TokenRequests
from bytelm.inference.scheduler import Outcome, Step
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.completion import random_stream
from bytelm.sampling.params import SamplingParams


def requests_of(lm: ByteModel[Any, Any], level: str, *, stride: int | None = None) -> Requests:
    """The answers of a model at a level.

    Raises:
        InvalidArgumentError: There is no such level, or the model has no tokens.
    """
    one_of("level", level, LEVELS)
    return ByteRequests(lm, stride=stride_of(stride)) if level == "byte" else TokenRequests(lm)


LEVELS: Final = ("byte", "token")
AUTO_BATCH: Final = 8  # contexts under way at a time
MAX_GEN_TOKS: Final = 256  # lm-eval's own default

# What a task may ask of generation, beside what is done here, where it asks for nothing.
_IDLE: Final[Mapping[str, Any]] = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "num_return_sequences": 1,
}

T = TypeVar("T")
log = logging.getLogger(__name__)


@register_model("bytelm")
class HarnessLM(LM):  # type: ignore[misc] # lm-eval publishes no types
    """A byte model, an ensemble or the token-level baseline as lm-eval takes it.

    Args:
        pretrained: What `ByteLM.from_pretrained` takes, or a byte model.
        members: The same for each member of an ensemble, with ``;`` between.
        combine: "mixture", "bayes" or "product".
        weights: Of the members, with ``;`` between.
        alpha: As for `Ensemble`.
        level: "byte", or "token" for the baseline.
        batch_size: Contexts that run together; "auto" is 8.
        max_batch_size: Ignored: no batch is ever found by trying.
        device: Where models run. A GPU that is not there, which lm-eval may ask for by default, is the CPU.
        bytes_per_token: How many bytes lm-eval's ``max_gen_toks`` counts for each token.
        stride: Bytes of a piece of a text longer than the context; see byte_requests.py.
        start: Whether an empty context and a whole text get a start token in front, as in lm-eval's models.
        seed: Of draws, where a task samples.
        normalize: Whether texts are brought to the tokenizer's normal form, which is what tokenizers do.
        options: What else `ByteLM.from_pretrained` takes; in an ensemble with ``;`` between, one for each member.

    Raises:
        InvalidArgumentError: An argument out of range, or neither or both of ``pretrained`` and ``members``.
        ModelError: A model cannot be loaded.
    """

    def __init__(
        self,
        pretrained: Any = None,
        *,
        members: Any = None,
        combine: Any = "mixture",
        weights: Any = None,
        alpha: Any = ALPHA,
        level: str = "byte",
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        device: Any = None,
        bytes_per_token: int | float = 4,
        stride: int | None = None,
        start: bool = False,
        seed: int = 0,
        normalize: bool = True,
        **options: Any,
    ) -> None:
        del max_batch_size
        super().__init__()
        self._jobs = _jobs_of(batch_size)
        one_of("level", level, LEVELS)
        if not number("bytes_per_token", bytes_per_token) > 0:
            raise InvalidArgumentError(f"bytes_per_token must be above 0; got {bytes_per_token}")
        self.bytes_per_token = float(bytes_per_token)
        self.level = level
        self._seed = integer("seed", seed)
        self._accelerator: Any = None
        self._join()
        options = {"device": self._placed(device), "normalize": normalize, **options}
        if (pretrained is None) == (members is None):
            raise InvalidArgumentError(
                "give either pretrained=MODEL or members=MODEL;MODEL in --model_args; "
                f"got pretrained={pretrained!r}, members={members!r}"
            )
        if members is None:
            self.lm = _loaded(pretrained, options)
        else:
            self.lm = _joined(_listed(members), combine, weights, alpha, options)
        self._answers = requests_of(self.lm, level, stride=stride)
        self._answers.start = start
        self._stride = stride

    # ---- the three questions

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Scored]:
        """Ln P(continuation | context) of each request, and whether greedy decoding writes the continuation."""
        contexts: dict[str, dict[str, list[int]]] = {}
        for place, request in enumerate(requests):
            context, continuation = request.args
            contexts.setdefault(context, {}).setdefault(continuation, []).append(place)
        ordered = sorted(contexts)
        found: dict[int, Scored] = {}
        steps = [self._answers.scored(context, list(contexts[context])) for context in ordered]
        sizes = [sum(map(len, contexts[context].values())) for context in ordered]
        for outcome in self._run(steps, "loglikelihood", sizes, quiet=disable_tqdm):
            context = ordered[outcome.index]
            for (continuation, places), scored in zip(contexts[context].items(), outcome.result, strict=True):
                self.cache_hook.add_partial("loglikelihood", (context, continuation), scored)
                found.update(dict.fromkeys(places, scored))
        return [found[place] for place in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Ln P(text) of each request."""
        found: dict[int, float] = {}
        texts = [request.args[0] for request in requests]
        steps = [self._answers.rolling(text) for text in texts]
        for outcome in self._run(steps, "loglikelihood_rolling", [1] * len(steps), quiet=disable_tqdm):
            self.cache_hook.add_partial("loglikelihood_rolling", (texts[outcome.index],), outcome.result)
            found[outcome.index] = outcome.result
        return [found[place] for place in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after the context of each request, up to and without a stop string."""
        found: dict[int, str] = {}
        asked = [(place, *request.args) for place, request in enumerate(requests)]
        asked.sort(key=lambda each: each[1])
        steps = [self._written(*each) for each in asked]
        for outcome in self._run(steps, "generate_until", [1] * len(steps), quiet=disable_tqdm):
            place, context, wanted = asked[outcome.index]
            if not wanted.get("do_sample"):
                self.cache_hook.add_partial("generate_until", (context, wanted), outcome.result)
            found[place] = outcome.result
        return [found[place] for place in range(len(requests))]

    def _written(self, place: int, context: str, wanted: Mapping[str, Any]) -> Step[str]:
        params, tokens = self.params_of(wanted)
        random = random_stream(self._seed, place * self.world_size + self.rank)
        return self._answers.written(context, params, random, tokens=tokens)

    def params_of(self, wanted: Mapping[str, Any]) -> tuple[SamplingParams, int]:
        """How to write what a request asks for, and how many tokens lm-eval allows it.

        Raises:
            InvalidArgumentError: It asks for what cannot be done over bytes.
        """
        given = dict(normalize_gen_kwargs(dict(wanted), MAX_GEN_TOKS))
        stops = tuple(str(stop).encode() for stop in given.pop("until") if stop)
        tokens, sampled = int(given.pop("max_gen_toks")), bool(given.pop("do_sample", False))
        temperature = float(given.pop("temperature", 1.0)) * sampled
        filters = {name: given.pop(name) for name in ("top_k", "top_p", "min_p") if name in given}
        unknown = {name: value for name, value in given.items() if _IDLE.get(name, object()) != value}
        if unknown:
            raise InvalidArgumentError(
                f"the task asks to generate with {unknown}, which bytelm does not do; there are until, max_gen_toks, "
                "do_sample, temperature, top_k, top_p and min_p: change the others by --gen_kwargs"
            )
        max_bytes = max(1, round(tokens * self.bytes_per_token))
        chosen = filters if sampled else {}
        return SamplingParams(temperature=temperature, max_bytes=max_bytes, stop=stops, **chosen), tokens

    def _run(self, steps: Sequence[Step[T]], label: str, sizes: Sequence[int], *, quiet: bool) -> Iterator[Outcome[T]]:
        from tqdm import tqdm

        scheduler = copy.copy(self.lm.scheduler)  # for so many at a time
        scheduler.max_jobs = self._jobs
        done = 0
        with tqdm(total=sum(sizes), desc=f"Running {label} requests", disable=quiet or self.rank != 0) as bar:
            try:
                for outcome in scheduler.run(steps):
                    yield outcome
                    done += sizes[outcome.index]
                    bar.update(sizes[outcome.index])
            except Exception as error:
                error.add_note(f"{done} of {sum(sizes)} {label} requests were answered; --use_cache keeps them")
                raise

    # ---- chat

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as a context: its messages, of which each member makes its own prompt."""
        return packed(Chat(tuple(chat_history), opens=add_generation_prompt))

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The templates of the members, for lm-eval's records; a name chooses one of several.

        Raises:
            InvalidArgumentError: A member has none.
        """
        if chat_template is False:
            return ""
        self._answers.template = None if chat_template is True else chat_template
        found = []
        for leaf in self.lm.models:
            try:
                found.append(leaf.tokenizer.get_chat_template(chat_template=self._answers.template))
            except ValueError as error:
                raise InvalidArgumentError(f"{leaf!r} has no such chat template: {error}") from error
        self._take_place()  # with another template the answers are others
        return "\n".join(found)

    @property
    def tokenizer_name(self) -> str:
        """In the name of lm-eval's files of cached prompts: these are the same for all models here."""
        return "bytelm"

    # ---- the cache

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take a place in lm-eval's cache that is this model's own."""
        super().set_cache_hook(cache_hook)
        self._take_place()

    def _take_place(self) -> None:
        table: Any = self.cache_hook.dbdict
        if table is not None:
            from sqlitedict import SqliteDict

            own = SqliteDict(table.filename, tablename=f"bytelm-{self.digest()}", autocommit=True)  # makes the table
            table.tablename = own.tablename
            own.close()

    def digest(self) -> str:
        """A digest that tells this model's answers from another's."""
        parts = (self.lm.fingerprint(), self.level, self.bytes_per_token, self._stride, self._answers.template)
        more = "" if self._answers.start else "no start token"
        return hashlib.sha256((repr(parts) + more).encode()).hexdigest()[:32]

    # ---- in parallel

    def _join(self) -> None:
        """Take this process's part, if it is one of several."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
            self._rank = self._accelerator.process_index
            self._world_size = self._accelerator.num_processes
            self._device = self._accelerator.device

    def _placed(self, device: Any) -> Any:
        import torch

        if self._accelerator is not None and (device is None or str(device).startswith("cuda")):
            return str(self._device)
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            log.warning("there is no GPU for device=%s: running on the CPU", device)
            return "cpu"
        return device

    def all_gather(self, tensor: Any) -> Any:
        """The tensors of all processes."""
        return tensor if self._accelerator is None else self._accelerator.gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all processes, in the one that is asked for."""
        if self._accelerator is None:
            return [obj]
        import torch

        gathered: list[Any] | None = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, gathered, dst=dst)
        return gathered

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval notes with its results."""
        return {"bytelm_model": repr(self.lm), "bytelm_level": self.level, "bytes_per_token": self.bytes_per_token}


def _jobs_of(batch_size: object) -> int:
    if str(batch_size).split(":")[0] == "auto":
        return AUTO_BATCH
    try:
        jobs = int(str(batch_size))
    except ValueError:
        jobs = 0
    if jobs < 1:
        raise InvalidArgumentError(f"batch_size is 'auto' or a number of contexts, at least 1; got {batch_size!r}")
    return jobs


def _listed(value: Any) -> list[Any]:
    """Values given with ``;`` between, or as a list, or one."""
    if isinstance(value, str):
        return [handle_arg_string(part.strip()) for part in value.split(";")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _loaded(model: Any, options: Mapping[str, Any]) -> ByteModel[Any, Any]:
    if isinstance(model, ByteModel):
        return model
    return ByteLM.from_pretrained(model, **{name: value for name, value in options.items() if value is not None})


def _joined(names: list[Any], combine: Any, weights: Any, alpha: Any, options: Mapping[str, Any]) -> Ensemble:
    """An ensemble of models; one that is named twice with the same options is loaded once."""
    split = {name: _listed(value) if ";" in str(value) else [value] * len(names) for name, value in options.items()}
    for name, values in split.items():
        if len(values) != len(names):
            raise InvalidArgumentError(f"{name} has {len(values)} values for {len(names)} members: {options[name]!r}")
    if weights is not None:
        try:
            weights = [float(weight) for weight in _listed(weights)]
        except (TypeError, ValueError):
            raise InvalidArgumentError(
                f"weights takes numbers with ; between, such as 0.7;0.3; got {weights!r}"
            ) from None
    known: dict[str, ByteModel[Any, Any]] = {}
    members = []
    for place, model in enumerate(names):
        own = {name: None if values[place] == "" else values[place] for name, values in split.items()}
        key = repr((model, sorted(own.items())))
        if key not in known:
            known[key] = _loaded(model, own)
        members.append(known[key])
    return Ensemble(members, weights=weights, combine=combine, alpha=alpha)
