"""Token-level completion and token healing, on vocabularies small enough to work out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from jaxtyping import Float64
from scipy.stats import chisquare
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.engines.table import TableLM
from bytelm.errors import BytelmError, InvalidArgumentError, InvalidTypeError
from bytelm.healing import Healing, TokenCompleter, completer_of

if TYPE_CHECKING:
    from bytelm import ByteLM

Rows = Callable[[tuple[int, ...]], Mapping[int, float]]


class FakeLM(TableLM):
    """A model given by a function from tokens to the probabilities of the next one; it keeps what it was asked."""

    def __init__(self, tokenizer: Any, vocab_size: int, eot_ids: Sequence[int], rows: Rows) -> None:
        super().__init__(tokenizer, table=rows, eot_ids=eot_ids, vocab_size=vocab_size)
        self.asked: list[tuple[int, ...]] = []

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float64[np.ndarray, "n vocab"]:
        self.asked += [tuple(sequence) for sequence in sequences]
        return super().next_token_logprobs(sequences)


# A byte-level vocabulary: Ġ stands for a space, Ã and © for the two bytes of é.
PIECES = ["<eot>", "r", "e", "t", "u", "n", "Ġ", "re", "ret", "Ġret", "Ġreturn", "un", "Ã", "©", "urn", "Ã©"]
EOT, R, E, T, U, N, SPACE, RE, RET, S_RET, S_RETURN, UN, C3, A9, URN, E_ACUTE = range(16)
MERGES = [("r", "e"), ("re", "t"), ("Ġ", "ret"), ("u", "n"), ("Ã", "©")]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eot>"])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Tokens ▁ (256), a (257), b (258), ▁a (259), ▁ab (260) and <0x00> … <0xFF>; a hidden leading space."""
    pieces = {f"<0x{b:02X}>": b for b in range(256)}
    pieces.update({"▁": 256, "a": 257, "b": 258, "▁a": 259, "▁ab": 260, "<eot>": 261})
    merges = [("▁", "a"), ("▁a", "b")]
    tokenizer = Tokenizer(models.BPE(pieces, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<eot>"])
    return tokenizer


def completer(rows: Rows, tokenizer: Tokenizer | None = None, context: Sequence[int] = ()) -> TokenCompleter:
    tokenizer = tokenizer or byte_level()
    eot = tokenizer.get_vocab()["<eot>"]
    return TokenCompleter(FakeLM(tokenizer, tokenizer.get_vocab_size(), [eot], rows), context=context)


def trained_on_return(ids: tuple[int, ...]) -> Mapping[int, float]:
    """A model that has seen " return" as one token only: after " ret" it knows nothing better than to end."""
    if not ids or ids[-1] in (N, UN):
        return {S_RETURN: 0.7, S_RET: 0.1, SPACE: 0.2}
    if ids[-1] == S_RETURN:
        return {EOT: 0.9, N: 0.1}
    return {EOT: 0.6, U: 0.3, T: 0.1}


def pseudo_random(ids: tuple[int, ...]) -> Mapping[int, float]:
    """A distribution for each sequence, none of them alike, with probability on every token."""
    weights = np.random.default_rng([7, len(ids), *ids]).dirichlet(np.full(len(PIECES), 0.5))
    return dict(enumerate(weights.tolist()))


@pytest.mark.parametrize(
    ("healing", "kept", "backed_up"),
    [
        ("none", (N, S_RET), b""),
        ("one", (N,), b" ret"),
        ("many", (N,), b" ret"),
    ],
)
def test_healing_takes_the_last_token_back(healing: Healing, kept: tuple[int, ...], backed_up: bytes) -> None:
    """Healing keeps the tokens before the last and has the last one's bytes written again."""
    actual = completer(pseudo_random).back_up("n ret", healing=healing)

    assert actual == (kept, backed_up)


def test_as_many_tokens_are_taken_back_as_one_token_reaches_over() -> None:
    """The text " retu" is two tokens, and the token " return" reaches over both of them."""
    assert completer(pseudo_random).back_up("n retu", healing="one") == ((N, S_RET), b"u")
    assert completer(pseudo_random).back_up("n retu", healing="many") == ((N,), b" retu")


def test_nothing_is_taken_back_where_no_token_reaches_over_the_end() -> None:
    """No token begins with "nt" or with "t" and goes on, so the prompt's own tokens stay."""
    assert completer(pseudo_random).back_up("nt", healing="many") == ((N, T), b"")


def test_tokens_miss_the_word_that_healing_finds() -> None:
    """After the tokens of " ret" the toy model ends the text; with them taken back it writes " return"."""
    lm = completer(trained_on_return)

    by_tokens = lm.sample("n ret", healing="none")
    healed = lm.sample("n ret", healing="one")

    assert (by_tokens.bytes, by_tokens.finish_reason) == (b"", "eot")
    assert (healed.text, healed.backed_up, healed.token_ids) == ("urn", b" ret", (S_RETURN,))


def test_next_byte_of_tokens_is_the_first_byte_of_the_next_token() -> None:
    """Without healing P(b) sums the tokens that begin with b: here u 0.3, t 0.1 and the end 0.6."""
    probs = np.exp(completer(trained_on_return).next_byte_logprobs("n ret", healing="none"))

    expected = np.zeros(257)
    expected[[ord("u"), ord("t"), 256]] = 0.3, 0.1, 0.6
    assert probs == pytest.approx(expected)


def test_next_byte_of_one_token_healing_is_worked_out_by_hand() -> None:
    """Begins with " ret": " return" 0.7, " ret" 0.1; renormalised 7/8, 1/8; the latter goes on with u, t or the end."""
    probs = np.exp(completer(trained_on_return).next_byte_logprobs("n ret", healing="one"))

    expected = np.zeros(257)
    expected[[ord("u"), ord("t"), 256]] = 7 / 8 + 0.3 / 8, 0.1 / 8, 0.6 / 8
    assert probs == pytest.approx(expected)


def test_next_byte_of_full_healing_is_worked_out_by_hand() -> None:
    """The space alone is allowed too (0.2 of 1), and after it only r, re and ret, of which the toy model gives none."""
    with pytest.raises(BytelmError, match="every token that may follow has probability 0"):
        completer(trained_on_return).next_byte_logprobs("n ret", healing="many")

    def rows(ids: tuple[int, ...]) -> Mapping[int, float]:
        return {RET: 0.5, RE: 0.25, N: 0.25} if ids[-1:] == (SPACE,) else trained_on_return(ids)

    probs = np.exp(completer(rows).next_byte_logprobs("n ret", healing="many"))

    # " return" 0.7; " ret" 0.1; " " 0.2 then "ret" 2/3 or "re" 1/3, the latter then "t" for certain; then u, t or end.
    rest = 0.1 + 0.2 * (2 / 3 + 1 / 3)
    expected = np.zeros(257)
    expected[[ord("u"), ord("t"), 256]] = 0.7 + rest * 0.3, rest * 0.1, rest * 0.6
    assert probs == pytest.approx(expected)


@pytest.mark.parametrize("healing", ["none", "one", "many"])
def test_samples_have_the_stated_distribution(healing: Healing) -> None:
    """2,000 first bytes drawn at temperature 1 fit next_byte_logprobs by chi-square, p above 0.001 with this seed."""
    lm = completer(pseudo_random)
    expected = np.exp(lm.next_byte_logprobs("n ret", healing=healing))

    counts = np.zeros(257)
    for seed in range(2000):
        drawn = lm.sample("n ret", healing=healing, max_bytes=1, temperature=1.0, seed=seed)
        counts[drawn.bytes[0] if drawn.bytes else 256] += 1

    often = expected > 0.005
    observed = [*counts[often], counts[~often].sum()]
    wanted = [*(2000 * expected[often]), 2000 * expected[~often].sum()]
    assert expected.sum() == pytest.approx(1.0)
    assert chisquare(observed, wanted).pvalue > 0.001


@pytest.mark.parametrize("healing", ["none", "one", "many"])
def test_what_is_written_again_is_the_prompt(healing: Healing) -> None:
    """The tokens drawn spell what was taken away and then the new bytes."""
    lm = completer(pseudo_random)

    for seed in range(20):
        done = lm.sample("n retu", healing=healing, max_bytes=9, temperature=1.0, seed=seed)
        spelled = lm.vocab.spell(done.token_ids)

        assert spelled.startswith(done.backed_up + done.bytes)


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Draws depend on the seed alone."""
    lm = completer(pseudo_random)

    first, again, other = (lm.sample("n", max_bytes=40, temperature=1.0, seed=seed) for seed in (3, 3, 4))

    assert first == again
    assert first != other


def test_a_low_temperature_is_greedy() -> None:
    """At temperature 0.01 and at 0 the same tokens are drawn, and greedy takes the lowest id of equals."""
    lm = completer(pseudo_random)
    tied = completer(lambda _: {U: 0.5, R: 0.5})

    assert lm.sample("n", max_bytes=9, temperature=0.01, seed=1) == lm.sample("n", max_bytes=9)
    assert tied.sample("n", max_bytes=1).bytes == b"r"


def test_the_context_stands_in_front_of_every_sequence() -> None:
    """Tokens given as context are fed first and are never taken back."""
    lm = completer(pseudo_random, context=[EOT])
    fake = lm.token_lm
    assert isinstance(fake, FakeLM)
    lm.sample("r", healing="one", max_bytes=2)
    lm.next_byte_logprobs("nr", healing="one")

    assert fake.asked[0] == (EOT,)
    assert (EOT, N) in fake.asked
    assert all(ids[0] == EOT for ids in fake.asked)


def test_a_cut_character_can_be_healed_and_not_gone_on_from() -> None:
    """A prompt that ends after the first byte of é is refused without healing and completed with it."""
    lm = completer(lambda _: {E_ACUTE: 0.5, C3: 0.25, A9: 0.25})

    assert lm.sample("né".encode()[:2], healing="many", max_bytes=1).bytes == b"\xa9"
    assert lm.sample("né".encode()[:2], healing="one", max_bytes=1).backed_up == b"\xc3"
    with pytest.raises(InvalidArgumentError, match="inside a character"):
        lm.sample("né".encode()[:2], healing="none")


def test_the_hidden_leading_space_is_not_written() -> None:
    """Where the tokenizer hides a leading space, healing works across it and the output never shows it."""
    lm = completer(lambda _: {260: 0.6, 256: 0.3, 98: 0.1}, sentencepiece())

    healed = lm.sample("a", healing="one", max_bytes=1)
    opened = lm.sample("", max_bytes=2)

    assert (healed.bytes, healed.backed_up, healed.token_ids) == (b"b", b"a", (260,))
    assert opened.bytes == b"ab"
    assert np.exp(lm.next_byte_logprobs("a", healing="one"))[ord("b")] == pytest.approx(1.0)


def test_columns_beyond_the_vocabulary_are_never_drawn() -> None:
    """A padded row may hold mass on ids that no token has, and a narrow one lacks some: neither is drawn."""
    padded = TokenCompleter(FakeLM(byte_level(), 19, [EOT], lambda _: {17: 0.9, U: 0.1}))
    narrow = TokenCompleter(FakeLM(byte_level(), 5, [EOT], lambda _: {R: 0.1, U: 0.9}))

    assert padded.sample("n", max_bytes=1).bytes == b"u"
    assert narrow.sample("r", healing="one", max_bytes=1).token_ids == (R, U)


def test_a_token_that_ends_a_text_is_not_also_its_bytes() -> None:
    """Where an id of end of text spells something too, drawing it ends the text, and it counts once."""
    lm = TokenCompleter(FakeLM(byte_level(), len(PIECES), [EOT, N], lambda _: {N: 0.75, U: 0.25}))

    probs = np.exp(lm.next_byte_logprobs("r", healing="none"))

    assert probs[[ord("n"), ord("u"), 256]].tolist() == pytest.approx([0.0, 0.25, 0.75])
    assert lm.sample("r").finish_reason == "eot"


@pytest.mark.usefixtures("caller_errs")
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"healing": "two"}, "one of none, one, many; got 'two'"),
        ({"max_bytes": 0}, "max_bytes must be at least 1; got 0"),
        ({"temperature": -0.5}, "got -0.5"),
        ({"temperature": math.nan}, "got nan"),
        ({"stop": ["x", ""]}, "empty stop string"),
        ({"level": "token"}, "leave level out"),
    ],
)
def test_arguments_out_of_range_are_refused_before_the_model_runs(options: dict[str, Any], match: str) -> None:
    """A ValueError names the argument and its value, and the model has not been asked."""
    lm = completer(pseudo_random)

    with pytest.raises(ValueError, match=match):
        lm.sample("n", **options)
    fake = lm.token_lm
    assert isinstance(fake, FakeLM)
    assert fake.asked == []


@pytest.mark.usefixtures("caller_errs")
def test_a_prompt_that_is_no_text_is_refused() -> None:
    """Bytes that cannot be UTF-8 have no encoding, and other types are no prompts."""
    lm = completer(pseudo_random)

    with pytest.raises(InvalidArgumentError, match="not UTF-8 at byte 1"):
        lm.sample(b"n\xffn")
    with pytest.raises(InvalidTypeError, match="not list"):
        lm.sample([1, 2])  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.slow
def test_healing_on_the_real_model(smollm2: ByteLM) -> None:
    """SmolLM2 finishes "ret" with both healings and not from the prompt's own tokens."""
    lm = completer_of(smollm2)
    prompt = "def fibonacci(n):\n    ret"
    healings: tuple[Healing, ...] = ("none", "one", "many")

    by_tokens, one, many = (lm.sample(prompt, healing=healing, max_bytes=5).text for healing in healings)

    assert (one, many) == ("urn n", "urn n")
    assert by_tokens != "urn n"
