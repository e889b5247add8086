"""A GGUF file on llama.cpp as a `TokenLM`: the quantised model itself, at the speed that llama.cpp has on a CPU.

Rules
    The tokenizer is rebuilt from the file (tokenizer/gguf/tokenizer.py) and compared with llama.cpp's own on some
    hundred difficult texts at construction: one that splits any of them in another way is refused.
    Sequences stay in llama.cpp's cache, each prefix once, whatever branches come and go (lines.py); all that a call
    asks for goes in one decode (context.py), and the rows come back as an array.
    A model with a recurrent state cannot be stepped back: its sequences are fed from their first token on.
    `draw_tokens` draws from the rows, of all sequences under way a token a call: as they are, or by llama.cpp's own
    sampler (sampler.py).

Numbers
    llama.cpp computes with the quantised weights, and rounds what it multiplies with them to 8 bits: its rows are not
    those of the same file in the transformers engine, which unpacks the weights to float32. They are the same rows,
    whatever was asked before and beside (context.py says how).

Memory
    The cache has ``n_ctx`` cells and some to spare, made at the construction. When they are used up, everything is
    forgotten and what is asked for is fed anew: to give single lines up would take cells out of order. Rows are
    remembered up to ``row_bytes``. After an error the cache is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32

from bytelm.engines import ids
from bytelm.engines.llama_cpp.context import MAX_IDS, Context
from bytelm.engines.llama_cpp.lines import Lines, Plan
from bytelm.engines.row_engine import Room, RowEngine, check_least
from bytelm.engines.row_memo import ROW_BYTES, Row, Rows, Tokens
from bytelm.engines.rows import checked_rows, drawn_token, total
from bytelm.errors import InvalidArgumentError, ModelError, UnsupportedTokenizerError
from bytelm.token_lm import EXTRA_TOKEN_COST, Draw, More, TokenSampling
from bytelm.tokenizer.gguf.metadata import read_metadata
from bytelm.tokenizer.gguf.tokenizer import CONTROL, NORMAL, USER_DEFINED, named_tokens, tokenizer_json
from bytelm.tokenizer.hard_texts import documents

BATCH: Final = 32  # below 64, from which on llama.cpp sums attention in another order
PROBE: Final = 23
UNEVEN: Final = (1, 2, 3, 4, 5, 8)  # tokens of calls
FEW: Final = (7, 3, 2)  # up to which llama.cpp has the kernels of a lone token, for one format or another
SAME: Final = 2e-5  # nats
TEXTS: Final = 300  # texts that a rebuilt tokenizer is compared on at construction


class LlamaCppLM(RowEngine):
    """A GGUF file that answers `TokenLM.next_token_logprobs`. Threads may share it.

    Args:
        path: The file.
        tokenizer: Its tokenizer, a transformers fast tokenizer; rebuilt from the file if not given.
        eot_ids: Ids that end a text. None: those at which llama.cpp ends one.
        start_id: The id to feed for an empty sequence. None: BOS, else an EOT id.
        n_ctx: Tokens that the cache holds, and the longest sequence. None: the context that the model was trained with,
            at most 8192.
        n_seq: Sequences that the cache tells apart, 1 to 254: branches that are kept, and rows of one call.
        n_batch: Most tokens of a call of llama.cpp. None: 32 where a probe at construction finds that a row does not
            depend on how its tokens are cut into calls, else 7, 3 or 2, with which it does not.
        n_threads: Threads. None: the processors that this process may use.
        row_bytes: What remembered rows may take.
        options: Other fields of llama.cpp's ``llama_model_params`` and ``llama_context_params``, such as
            ``n_gpu_layers``, ``type_k``, ``flash_attn_type``.

    Attributes:
        context: llama.cpp's model, its cache and its own tokenizer.
        usage: Calls of llama.cpp and tokens fed since the construction.
        n_batch: Most tokens of a call.
        context_length: The longest sequence that it takes.
        extra_token_cost: The cost of one extra token in a call, relative to a separate call: 1, as llama.cpp's time on
            a CPU goes by tokens; next to nothing where each call has two tokens anyhow.
        mode: "tree", or "whole" where the model's state cannot be stepped back.
        draws_by_default: Whether completions are drawn by `draw_tokens` unless told otherwise: they are not, as that is
            no faster here.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
        ModelError: The file cannot be loaded, or there is not enough memory.
        UnsupportedTokenizerError: The file's tokenizer is of a kind that cannot be rebuilt, or what is rebuilt is not
            llama.cpp's.
        VocabularyMismatchError: The given tokenizer is not the model's.
        InvalidArgumentError: An option is unknown or out of range.
    """

    draws_by_default = False
    normalises = True

    def __init__(
        self,
        path: str | Path,
        *,
        tokenizer: Any = None,
        eot_ids: Iterable[int] | None = None,
        start_id: int | None = None,
        n_ctx: int | None = None,
        n_seq: int = 64,
        n_batch: int | None = None,
        n_threads: int | None = None,
        row_bytes: int = ROW_BYTES,
        **options: Any,
    ) -> None:
        check_least(
            n_ctx=(n_ctx, 1), n_seq=(n_seq, 1), n_batch=(n_batch, 1), n_threads=(n_threads, 1), row_bytes=(row_bytes, 0)
        )
        if n_seq > MAX_IDS:
            raise InvalidArgumentError(f"n_seq must be at most {MAX_IDS}, llama.cpp's own limit, not {n_seq}")
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise ModelError(f"there is no file {str(path)!r}; the engine 'llama-cpp' loads one GGUF file")
        self.context = Context(
            self.path, n_ctx=n_ctx, n_seq=n_seq, n_batch=n_batch or BATCH, n_threads=n_threads, options=options
        )
        found = gguf_tokenizer(self.path, self.context) if tokenizer is None else tokenizer
        ids.check_tokenizer(found)
        super().__init__(
            found,
            self.context.columns,
            None,
            eot_ids=ids.without_text(self.context.ends(), found) if eot_ids is None else eot_ids,
            start_id=start_id,
            context_length=self.context.context_length,
            larger="load the model with a larger n_ctx (if it was trained with one)",
            row_bytes=row_bytes,
        )
        self.mode: Final = "whole" if self.context.stateful else "tree"
        self._lines = Lines(self.context.n_seq, self.context, self.context.window)
        if n_batch is None:
            self._probe()
        self.n_batch = self.context.n_batch
        self.extra_token_cost = EXTRA_TOKEN_COST if self.context.pair else 1.0

    def _probe(self) -> None:
        """Feed no more tokens in a call than a row is the same with as where they are fed one by one.

        Where two already make another row of it, a token is never fed alone either.
        """
        context, most = self.context, self.context.n_batch
        sequence = tuple(i * i % self.vocab_size for i in range(min(PROBE, context.context_length)))

        def rows(sizes: Iterable[int]) -> Float32[np.ndarray, "n vocab"]:
            self._forget()
            places, found = iter(range(len(sequence))), list[Row]()
            for size in sizes:
                if part := list(islice(places, size)):
                    logits = context.decode([sequence[i] for i in part], part, [[0]] * len(part), range(len(part)))
                    found += log_softmax(logits)
            return np.stack(found)

        alone = rows([1] * PROBE)
        for size, ways in ((most, ([most], UNEVEN)), *((n, ([n] * PROBE,)) for n in FEW)):
            context.n_batch = min(size, most)
            if all(np.abs(rows(sizes) - alone).max() <= SAME for sizes in ways):
                break
        else:
            context.pair = True
        self._forget()

    def __repr__(self) -> str:
        return f"LlamaCppLM({self.path.name}, {self.vocab_size} columns, mode={self.mode!r})"

    def draw_tokens(self, more: More) -> None:
        """Draw tokens after sequences; see `TokenDrawer.draw_tokens`.

        Raises:
            ContextOverflowError: A sequence has come to the end of the model's context.
            ModelError: llama.cpp failed.
        """
        lines, ended, full = list[_Line](), True, False
        with self._lock:
            while lines or ended:
                begun = [_Line(draw, self._room(draw), self.context) for draw in (more() if ended else ())]
                full |= any(line.cut and not line.left for line in begun)
                before = [*lines, *(line for line in begun if line.left)]
                if not before:
                    break
                rows = map(np.asarray, self._memo.answer([tuple(line.ids) for line in before], self._computed))
                lines = [line for line, row in zip(before, rows, strict=True) if line.take(row)]
                full |= any(line.cut and not line.left for line in before)
                ended = len(lines) < len(before)
        if full:
            raise self._context_full()

    def check_sampling(self, sampling: TokenSampling) -> None:
        """See that llama.cpp's sampler has these options; see `TokenSampler.check_sampling`."""
        self.context.new_sampler(sampling, 0)

    def clear_cache(self) -> None:
        """Forget all sequences and rows."""
        with self._lock:
            self._forget()
            super().clear_cache()

    def close(self) -> None:
        """Give the memory of the model and its cache back. The engine cannot be asked any more."""
        with self._lock:
            self.context.close()

    def _forget(self) -> None:
        self.context.clear()
        self._lines.clear()

    def _computed(self, sequences: list[Tokens]) -> Rows:
        try:
            return self._rows(sequences)
        except BaseException:
            self._forget()  # what was planned may not have been fed
            raise

    def _rows(self, sequences: list[Tokens]) -> Rows:
        rows: Rows = {}
        if self.mode == "whole":
            for sequence in sequences:
                self._forget()
                rows |= self._run(self._lines.plan([sequence]))
            return rows
        while sequences:
            plan = self._lines.plan(sequences)
            if not self.context.has_room(len(plan)):
                self._forget()
                plan = self._lines.plan(sequences)
            if not self.context.has_room(len(plan)):  # nor for all of them at once in an empty cache
                self._forget()
                half = len(sequences) // 2
                return rows | self._rows(sequences[:half]) | self._rows(sequences[half:])
            rows |= self._run(plan)
            sequences = plan.left
        return rows

    def _run(self, plan: Plan) -> Rows:
        """Feed a plan, and return its rows."""
        rows: Rows = {}
        size = self.context.n_batch
        for first in range(0, len(plan), size):
            part = slice(first, first + size)
            wanted = [i for i in range(first, min(first + size, len(plan))) if i in plan.wanted]
            inside = [i - first for i in wanted]
            logits = self.context.decode(plan.tokens[part], plan.positions[part], plan.ids[part], inside)
            self.usage.calls += 1
            self.usage.tokens_fed += len(plan.tokens[part])
            rows.update(zip((plan.wanted[i] for i in wanted), log_softmax(logits), strict=True))
        self._lines.fed(plan)
        return rows


class _Line:
    """A sequence that is drawn along.

    Attributes:
        ids: Its tokens so far.
        left: How many more may follow.
        cut: Whether it is the context that ends it.
    """

    def __init__(self, draw: Draw, room: Room, context: Context) -> None:
        self.ids = [*room.sequence]
        self.left, self.cut = room.tokens, room.cut
        self._take = draw.take
        self._random = np.random.Generator(np.random.Philox(draw.seed))
        how = draw.sampling
        self._sampler = None if how is None else context.new_sampler(how, draw.seed, self.ids)

    def take(self, row: Float[np.ndarray, " vocab"]) -> bool:
        """Draw a token from the row after it, and hand it on; whether another is wanted."""
        if self._sampler is None:
            token = drawn_token(self._random.random(), row)
            logprob = float(row[token])
        else:
            token, logprob = self._sampler.choose(row), math.nan
        self.ids.append(token)
        self.left -= 1
        if self._take(token, logprob) is not True:
            self.cut = False
            return False
        return self.left > 0


def log_softmax(logits: Float32[np.ndarray, "n vocab"]) -> list[Row]:
    """Normalised rows, each by itself.

    Raises:
        InvalidLogitsError: A row holds NaN or +inf, or nothing but -inf.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        rows = [row - row.max() for row in logits]
        for row in rows:
            np.subtract(row, np.float32(np.log(total(row))), out=row)
    for row in rows:
        if not np.isfinite(row.max()):
            checked_rows(row[None], 1, len(row))  # says what is wrong
    return rows


def gguf_tokenizer(path: Path, context: Context) -> Any:
    """The tokenizer of a GGUF file, found to be llama.cpp's.

    Raises:
        UnsupportedTokenizerError: It is of a kind that cannot be rebuilt, or differs from llama.cpp's.
    """
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    advice = "give the model's own as tokenizer=, such as AutoTokenizer.from_pretrained(…)"
    try:
        metadata = read_metadata(path, "tokenizer.") | {"tokenizer.ggml.add_bos_token": context.adds_bos}
        kinds = metadata.setdefault("tokenizer.ggml.token_type", [NORMAL] * context.columns)
        for i in [i for i, kind in enumerate(kinds) if kind in {NORMAL, USER_DEFINED} and context.is_control(i)]:
            kinds[i] = CONTROL  # by its name: </s> in Gemma's file
        backend = Tokenizer.from_str(json.dumps(tokenizer_json(metadata)))
    except UnsupportedTokenizerError as error:
        raise UnsupportedTokenizerError(f"the tokenizer of {path.name} cannot be rebuilt: {error}") from error
    except KeyError as error:
        raise UnsupportedTokenizerError(
            f"the tokenizer of {path.name} cannot be rebuilt: the file lacks {error}; {advice}"
        ) from error
    except Exception as error:  # of the library tokenizers it is a bare one
        raise UnsupportedTokenizerError(f"the tokenizer of {path.name} cannot be rebuilt: {error}; {advice}") from error
    # Tokens that only llama.cpp takes for text, by their names (<|start|> of gpt-oss), stay special.
    kept = [
        t for i, t in enumerate(metadata["tokenizer.ggml.tokens"]) if kinds[i] == CONTROL and not context.is_control(i)
    ]
    backend.encode_special_tokens = True  # while the two are compared, no text is a special token
    sentinels = [token for token, kind in zip(metadata["tokenizer.ggml.tokens"], kinds, strict=True) if kind != NORMAL][
        :64
    ]
    for document in islice(documents(0, sentinels), TEXTS):
        text = document.decode("utf-8", "ignore")
        if any(token in text for token in kept):
            continue
        ours, theirs = backend.encode(text, add_special_tokens=False).ids, context.tokenize(text.encode())
        if ours != theirs:
            raise UnsupportedTokenizerError(
                f"the tokenizer rebuilt from {path.name} differs from llama.cpp's: it encodes {text!r} as {ours}, "
                f"llama.cpp as {theirs}; {advice}"
            )
    backend.encode_special_tokens = False
    # A file may name what is text in its vocabulary; named to transformers, it would be special there.
    vocab = backend.get_vocab()
    named = {key: token for key, token in named_tokens(metadata).items() if ids.text_of(backend, vocab[token]) is None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer


def load(name_or_path: str | Path, *, gguf_file: str | None = None, **options: Any) -> LlamaCppLM:
    """Load a GGUF file, or a packaged model's.

    Args:
        name_or_path: The file; or with ``gguf_file`` its folder.
        gguf_file: Name of the file in that folder.
        options: Arguments of `LlamaCppLM`.

    Raises:
        ModelError: There is no such file, or it cannot be loaded.
    """
    path = Path(name_or_path).expanduser()
    return LlamaCppLM(path if gguf_file is None else path / gguf_file, **options)
