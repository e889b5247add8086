"""Token-level completion and token healing: the things to beat, on the same engine.

Three ways to go on from a prompt, all of which draw tokens:

    none    Encode the prompt, draw the next token, and so on. What every ``generate`` does.
    one     Take the prompt's last token away (or its last character, where that is cut short). The first token drawn
            has to begin with its bytes; then go on freely.
    many    Take away as many tokens as a single token could reach back over: the earliest boundary of the prompt's
            encoding from which some token goes beyond the prompt's end. While a part s of the prompt is not yet
            written again, a token is allowed if it begins with s, or if s begins with it; then go on freely.

    A constrained draw takes the model's distribution, keeps the allowed tokens, and renormalises.

What they are worth
    Each function here is exact in what it says of *its own procedure*: `TokenCompleter.next_byte_logprobs` is the
    distribution of the first new byte that `TokenCompleter.sample` at temperature 1 draws. None of the three is
    P(next byte | prefix): renormalising at each step forgets how likely the allowed tokens were together, and a
    boundary before the earliest one taken is never asked about. `ByteLM` has neither defect.

In the middle
    `infill_completer` puts a method where `ByteLM.infill` stands. In SPM the prefix is the last text, so healing works
    on its end. In PSM the middle begins after a sentinel, with what is carried of the prefix: healing works on that.
    Without it nothing can be taken away, and the three are one.

Does not
    Temperature-scale anything but the draw of a token; handle a prompt's special tokens (text never becomes one);
    draw special tokens other than end of text (they spell nothing, so they are kept out and the rest renormalised).

Source
    "Prompt boundaries and token healing", Lundberg (guidance): *one*.
    Athiwaratkun et al., arXiv:2403.08688, "token alignment": *many*. Their number of tokens to take away is a setting;
    here it is read off the vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Unpack, get_args

import numpy as np
from jaxtyping import Float, Float64, Int64

from bytelm.arguments import Number, bytes_of, one_of, token_ids_of
from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import Prompt, bos_ids_of
from bytelm.errors import BytelmError, InvalidArgumentError
from bytelm.fim import Carry, Context, FIMFormat, InfillSettings, Mode
from bytelm.fim.files import context_of
from bytelm.inference.scheduler import Request, Scheduler, Step
from bytelm.inference.turns import in_its_turn
from bytelm.sampling.completion import FinishReason
from bytelm.sampling.filters import Filters
from bytelm.sampling.params import CallOptions, SamplingParams, params_of
from bytelm.sampling.text_stream import text_of
from bytelm.sampling.writing import Writing
from bytelm.symbols import EOT
from bytelm.token_lm import TokenLM, abilities_of
from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.tokenizer_json import read_vocab
from bytelm.tokenizer.vocab import Vocab

Healing = Literal["none", "one", "many"]

MAX_SPELLINGS: Final = 4096


@dataclass(frozen=True, slots=True)
class TokenCompletion:
    """What a token-level method wrote after a prompt.

    Attributes:
        backed_up: The end of the prompt that was taken away and written again.
        token_ids: The tokens drawn. The first ones spell ``backed_up``; the last one may reach beyond ``bytes``.
        bytes: The new bytes alone, after the prompt's last.
        finish_reason: ``"eot"``, ``"stop"`` or ``"length"``.
    """

    backed_up: bytes
    token_ids: tuple[int, ...]
    bytes: bytes
    finish_reason: FinishReason

    @property
    def text(self) -> str:
        """The new bytes as text, as `Completion.text` has it: without a part of a character at the end."""
        return text_of(self.bytes)


class TokenCompleter:
    """Completion by tokens, with or without healing.

    Args:
        token_lm: Any engine.
        vocab: The tokenizer as read by `read_vocab`; read from ``token_lm.tokenizer`` if not given.
        eot_ids: The ids that end a text; by default the engine's own.
        context: Tokens in front of every prompt, such as BOS.
        dummy_prefix: Whether a prompt opens a text, so that it gets the tokenizer's hidden leading space.
            After a sentinel it does not.
        encode: The canonical ids of a text there; the vocabulary's own if not given.
    """

    def __init__(
        self,
        token_lm: TokenLM,
        *,
        vocab: Vocab | None = None,
        eot_ids: Iterable[int] | None = None,
        context: Sequence[int] = (),
        dummy_prefix: bool = True,
        encode: Callable[[str], tuple[int, ...]] | None = None,
    ) -> None:
        self.token_lm = token_lm
        self.vocab = read_vocab(token_lm.tokenizer) if vocab is None else vocab
        self.prefix_index = PrefixIndex(self.vocab.token_bytes, self.vocab.order)
        self.context = token_ids_of(context, "context")
        self.dummy_prefix = self.vocab.dummy_prefix if dummy_prefix else b""
        self.encode: Callable[[str], tuple[int, ...]] = self.vocab.encode if encode is None else encode
        self.eot_ids = frozenset(token_lm.eot_ids if eot_ids is None else token_ids_of(eot_ids, "eot_ids"))
        # What may be drawn: spellable tokens that the model has a column for, and the ids that end a text.
        drawable = [i for i in self.prefix_index.order.tolist() if i < token_lm.vocab_size and i not in self.eot_ids]
        self._drawable = np.array(sorted([*drawable, *(i for i in self.eot_ids if i < token_lm.vocab_size)]), np.int64)
        self._is_drawable = np.zeros(max(len(self.vocab.token_bytes), token_lm.vocab_size), np.bool_)
        self._is_drawable[self._drawable] = True

    def sample(
        self, prompt: str | bytes, *, healing: Healing = "none", **options: Unpack[CallOptions]
    ) -> TokenCompletion:
        """Complete a prompt by drawing tokens.

        Args:
            prompt: Text. A prompt that ends inside a character needs healing.
            healing: How much of the prompt to take back, see the head of this module.
            options: As for `ByteLM.sample`, but greedy if no temperature is given; the temperature is of the token
                distribution, a token that reaches beyond ``max_bytes`` is cut, and there are no filters.

        Raises:
            InvalidArgumentError: An argument out of range, or a prompt that has no encoding.
        """
        params = params_of({"temperature": 0.0, **options})
        step = self.generation(prompt, params, np.random.default_rng(params.seed), healing=healing)
        return Scheduler(self.token_lm).run_one(step).result

    def generation(
        self, prompt: str | bytes, params: SamplingParams, random: np.random.Generator, *, healing: Healing = "none"
    ) -> Step[TokenCompletion]:
        """The completion as a step, to run beside others; it also ends where the model's context does."""
        one_of("healing", healing, get_args(Healing))
        if params.max_bytes < 1:
            raise InvalidArgumentError(f"max_bytes must be at least 1; got {params.max_bytes}")
        if params.level == "token":
            raise InvalidArgumentError(
                "level='token' is ByteLM's, where the engine writes: these methods draw tokens here; leave level out"
            )
        if params.filters != Filters(temperature=params.temperature) or params.logits_processor is not None:
            raise InvalidArgumentError(
                "tokens are drawn with a temperature alone: leave out top_k, top_p, min_p and logits_processor"
            )
        kept, backed_up = self._back_up(prompt, healing)
        room = abilities_of(self.token_lm).context_length
        writing, remaining = Writing(params), backed_up
        drawn: tuple[int, ...] = ()
        while writing.finish_reason is None:
            sequence = self.context + kept + drawn
            if drawn and room is not None and len(sequence) > room:
                writing.finish_reason = "length"
                break
            (row,) = yield Request((sequence,), len(writing.bytes) / params.max_bytes)
            ids, probs = self._choices(row, remaining, healing)
            token = int(ids[draw(probs, params.temperature, random)])
            if token in self.eot_ids:
                writing.finish_reason = "eot"
                break
            spelled = self._spell(token, opens=not (kept or backed_up or drawn))
            drawn = (*drawn, token)
            fresh, remaining = spelled[len(remaining) :], remaining[len(spelled) :]
            for byte in fresh:
                if writing.finish_reason is None:
                    writing.write(byte)
        return TokenCompletion(self._visible(backed_up, kept), drawn, bytes(writing.bytes), writing.ending)

    def next_byte_logprobs(self, prompt: str | bytes, *, healing: Healing = "none") -> Float64[np.ndarray, "257"]:
        """The distribution of the first new byte that `sample` at temperature 1 draws; index 256 is end of text.

        It sums over every way in which the tokens taken away can be written again, one model row each.

        Raises:
            BytelmError: There are more than `MAX_SPELLINGS` ways.
        """
        return Scheduler(self.token_lm).run_one(self._next_byte(prompt, healing)).result

    def _next_byte(self, prompt: str | bytes, healing: Healing) -> Step[Float64[np.ndarray, "257"]]:
        one_of("healing", healing, get_args(Healing))
        kept, backed_up = self._back_up(prompt, healing)
        total = np.zeros(257)
        spellings = 0
        level: list[tuple[tuple[int, ...], bytes, float]] = [((), backed_up, 1.0)]
        while level:
            spellings += len(level)
            if spellings > MAX_SPELLINGS:
                raise BytelmError(
                    f"{backed_up!r} can be written in more than {MAX_SPELLINGS} ways, each of which needs a row of the "
                    "model; use healing='one', or ByteLM.next_byte_logprobs, which needs a handful"
                )
            rows = yield Request(tuple(self.context + kept + drawn for drawn, _, _ in level))
            below: list[tuple[tuple[int, ...], bytes, float]] = []
            for (drawn, remaining, weight), row in zip(level, rows, strict=True):
                ids, probs = self._choices(row, remaining, healing)
                for token, prob in zip(ids.tolist(), (weight * probs).tolist(), strict=True):
                    spelled = self._spell(token, opens=not (kept or backed_up or drawn))
                    if token in self.eot_ids:
                        total[EOT] += prob
                    elif len(spelled) > len(remaining):
                        total[spelled[len(remaining)]] += prob
                    elif prob > 0:
                        below.append(((*drawn, token), remaining[len(spelled) :], prob))
            level = below
        with np.errstate(divide="ignore"):
            return np.log(total)

    @in_its_turn
    def back_up(self, prompt: str | bytes, *, healing: Healing) -> tuple[tuple[int, ...], bytes]:
        """The tokens of the prompt that stay, and the bytes that are taken away and have to be written again."""
        one_of("healing", healing, get_args(Healing))
        kept, backed_up = self._back_up(prompt, healing)
        return kept, self._visible(backed_up, kept)

    def _visible(self, backed_up: bytes, kept: tuple[int, ...]) -> bytes:
        return backed_up if kept else backed_up.removeprefix(self.dummy_prefix)

    def _back_up(self, prompt: str | bytes, healing: Healing) -> tuple[tuple[int, ...], bytes]:
        """As `back_up`, with the hidden leading space where the whole prompt is taken away."""
        ids, tail = self._encode(prompt)
        if healing == "none":
            if tail:
                raise InvalidArgumentError(
                    f"the prompt ends with {tail!r}, inside a character, where tokens cannot continue; "
                    "ask for healing='one' or 'many', or use ByteLM"
                )
            return ids, b""
        spelled = [self.vocab.token_bytes[i] or b"" for i in ids]
        if healing == "one":
            return (ids, tail) if tail else (ids[:-1], b"".join(spelled[-1:]))
        earliest, back = len(ids), tail
        rest = tail
        for k in range(len(ids) - 1, -1, -1):
            rest = spelled[k] + rest
            if len(rest) >= self.prefix_index.longest:
                break
            lo, hi = self.prefix_index.range(rest)
            if self.prefix_index.equal_to(rest, lo, hi) < hi:
                earliest, back = k, rest
        return ids[:earliest], back

    def _encode(self, prompt: str | bytes) -> tuple[tuple[int, ...], bytes]:
        """The canonical ids of the prompt's whole characters, and the bytes of a last one cut short."""
        bytes_of(prompt, "a prompt")
        if isinstance(prompt, str):
            return self.encode(prompt), b""
        try:
            return self.encode(prompt.decode()), b""
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                raise InvalidArgumentError(
                    f"the prompt is not UTF-8 at byte {error.start}, so it has no encoding; use ByteLM"
                ) from None
            return self.encode(prompt[: error.start].decode()), prompt[error.start :]

    def _spell(self, token: int, *, opens: bool) -> bytes:
        """The bytes of a drawn token; where it opens the text, the decoder takes the hidden leading space away."""
        spelled = self.vocab.token_bytes[token] or b""
        return spelled.removeprefix(self.dummy_prefix) if opens else spelled

    def _choices(
        self, row: Float[np.ndarray, " vocab"], remaining: bytes, healing: Healing
    ) -> tuple[Int64[np.ndarray, " choices"], Float64[np.ndarray, " choices"]]:
        """The ids that may be drawn, ascending, and their probabilities, which sum to 1."""
        ids = self._drawable
        if remaining:
            lo, hi = self.prefix_index.range(remaining)
            allowed = [self.prefix_index.order[lo:hi]]
            for end in range(1, len(remaining) if healing == "many" else 0):
                lo, hi = self.prefix_index.range(remaining[:end])
                allowed.append(self.prefix_index.order[lo : self.prefix_index.equal_to(remaining[:end], lo, hi)])
            ids = np.sort(np.concatenate(allowed)).astype(np.int64)  # no two of these parts share a token
            ids = ids[self._is_drawable[ids]]
        logprobs = row[ids].astype(np.float64)
        if not np.isfinite(logprobs.max(initial=-np.inf)):
            raise BytelmError(
                f"every token that may follow has probability 0; the text still to write is {remaining!r}"
            )
        probs = np.exp(logprobs - logprobs.max())
        return ids, probs / probs.sum()


def draw(probs: Float64[np.ndarray, " choices"], temperature: Number, random: np.random.Generator) -> int:
    """An index drawn at a temperature; at 0 the likeliest, the first of equals."""
    if temperature == 0:
        return int(probs.argmax())
    with np.errstate(divide="ignore"):
        powers = np.log(probs) / temperature
    weights = np.exp(powers - powers.max())
    return int(random.choice(len(probs), p=weights / weights.sum()))


def completer_of(lm: ByteLM, *, bos: bool = True) -> TokenCompleter:
    """The token-level methods on the engine, the tokenizer and the ends of text of a byte model.

    Args:
        lm: The byte model.
        bos: Whether each prompt begins with the tokens that the tokenizer puts before a text (BOS).
    """
    context = bos_ids_of(lm.viability.vocab) if bos else ()
    return TokenCompleter(lm.token_lm, vocab=lm.viability.vocab, eot_ids=lm.eot_ids, context=context)


def infill_completer(
    lm: ByteLM,
    prefix: str | bytes,
    suffix: str | bytes,
    *,
    mode: Mode = "auto",
    format: str | FIMFormat | None = None,  # noqa: A002 - as `ByteLM.infill` names it
    carry: Carry = "line",
    context: Context | None = None,
) -> tuple[TokenCompleter, bytes]:
    """The token-level methods on the very prompt that `ByteLM.infill` completes, and its last text.

    Every id that ends the middle there ends the text here.

    Args:
        lm: The byte model.
        prefix: The text before the cursor.
        suffix: The text after it.
        mode: As for `ByteLM.infill`.
        format: As for `ByteLM.infill`.
        carry: As for `ByteLM.infill`.
        context: As for `ByteLM.infill`.

    Returns:
        A completer, and the prompt for its `sample`: the prefix; where the middle begins after a sentinel, what is
        carried of it.

    Raises:
        NoInfillFormatError: As for `ByteLM.infill`.
        InvalidArgumentError: As for `ByteLM.infill`.
        UnreachablePrefixError: A text that is encoded by itself has no encoding.
    """
    how = InfillSettings(mode, format, carry, context_of(context))
    inside, (prompt,) = lm.infilling([(prefix, suffix)], how)  # the prompt that `ByteLM.infill` has
    read = inside.prompt(prompt)
    return completer_at(inside, read), read.text


def completer_at(lm: ByteLM, prompt: Prompt, like: TokenCompleter | None = None) -> TokenCompleter:
    """The token-level methods behind the tokens in front of a prompt.

    Args:
        lm: The byte model.
        prompt: Read by it; its text is left to the caller.
        like: A completer of the same byte model, to share what does not depend on the prompt.
    """
    vocab = lm.viability.vocab

    def encode(text: str) -> tuple[int, ...]:
        # The tokenizer would put its hidden leading space before any text that it is given.
        if prompt.dummy_prefix or not vocab.dummy_prefix:
            return vocab.encode(text)
        return lm.prompts.encoded(text.encode(), dummy_prefix=False)

    made = TokenCompleter(lm.token_lm, vocab=vocab, eot_ids=lm.eot_ids) if like is None else copy.copy(like)
    made.context, made.encode = prompt.context, encode
    made.dummy_prefix = vocab.dummy_prefix if prompt.dummy_prefix else b""
    return made
