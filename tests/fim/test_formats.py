"""Filling in the middle: prompts token by token, sentinels and text, the two orders, ends, and what is refused.

The published prompts stand here once more, spelled by hand: nothing is taken from `bytelm.fim.FORMATS`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from bytelm import ByteLM, Carry, Completion, Prefix, TableLM
from bytelm.cover.cover_cache import CoverCache
from bytelm.cover.prefix import Prompt
from bytelm.errors import (
    BytelmError,
    InvalidArgumentError,
    InvalidTypeError,
    NoInfillFormatError,
    UnreachablePrefixError,
)
from bytelm.fim import (
    CARRIED,
    FORMATS,
    FIMFormat,
    InfillSettings,
    Mode,
    carried_from,
    declared,
    find_format,
    read_format,
)
from bytelm.tokenizer.tokenizer_json import read_vocab
from tests.cover.test_prefix import with_template
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer

P, S = "if x:\n    ret", "\n\nprint(3)\n"

Published = dict[str, Any]
# P and S stand for the texts; every other string is one token. None: the maker documents no such order.
PUBLISHED: dict[str, Published] = {
    "codellama": {
        "bos": "<s>",
        "psm": ["<s>", "▁<PRE>", "P", "▁<SUF>", "S", "▁<MID>"],
        "spm": ["<s>", "▁<PRE>", "▁<SUF>", "S", "▁<MID>", "P"],
        "ends": ["▁<EOT>", "</s>"],
    },
    "santacoder": {
        "eos": "<|endoftext|>",
        "psm": ["<fim-prefix>", "P", "<fim-suffix>", "S", "<fim-middle>"],
        "spm": ["<fim-prefix>", "<fim-suffix>", "S", "<fim-middle>", "P"],
        "ends": ["<|endoftext|>", "<fim-pad>"],
    },
    "starcoder": {
        "eos": "<|endoftext|>",
        "psm": ["<fim_prefix>", "P", "<fim_suffix>", "S", "<fim_middle>"],
        "spm": ["<fim_prefix>", "<fim_suffix>", "S", "<fim_middle>", "P"],
        "ends": ["<|endoftext|>", "<fim_pad>", "<reponame>", "<filename>", "<gh_stars>"],
    },
    "starcoder2": {
        "eos": "<|endoftext|>",
        "psm": ["<fim_prefix>", "P", "<fim_suffix>", "S", "<fim_middle>"],
        "spm": ["<fim_prefix>", "<fim_suffix>", "S", "<fim_middle>", "P"],
        "ends": ["<|endoftext|>", "<fim_pad>", "<repo_name>", "<file_sep>"],
    },
    "deepseek-coder": {
        "bos": "<｜begin▁of▁sentence｜>",
        "eos": "<｜end▁of▁sentence｜>",
        "psm": ["<｜begin▁of▁sentence｜>", "<｜fim▁begin｜>", "P", "<｜fim▁hole｜>", "S", "<｜fim▁end｜>"],
        "spm": ["<｜begin▁of▁sentence｜>", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "S", "<｜fim▁end｜>", "P"],
        "ends": ["<｜end▁of▁sentence｜>", "<|EOT|>"],
        "undeclared": True,
    },
    "qwen2.5-coder": {
        "eos": "<|endoftext|>",
        "psm": ["<|fim_prefix|>", "P", "<|fim_suffix|>", "S", "<|fim_middle|>"],
        "spm": None,
        "ends": [
            *("<|endoftext|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
            *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
        ],
        "undeclared": True,
    },
    "codegemma": {
        "bos": "<bos>",
        "eos": "<eos>",
        "psm": ["<bos>", "<|fim_prefix|>", "P", "<|fim_suffix|>", "S", "<|fim_middle|>"],
        "spm": None,
        "ends": ["<|file_separator|>", "<eos>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    },
    "codestral": {
        "bos": "<s>",
        "psm": None,
        "spm": ["<s>", "[SUFFIX]", "S", "[PREFIX]", "P"],
        "ends": ["</s>"],
    },
    "granite": {
        "eos": "<|end_of_text|>",
        "psm": ["<fim_prefix>", "P", "<fim_suffix>", "S", "<fim_middle>"],
        "spm": None,
        "ends": ["<|end_of_text|>", "<fim_pad>", "<reponame>", "<filename>", "<gh_stars>"],
    },
    "mellum": {
        "eos": "<|endoftext|>",
        "psm": None,
        "spm": ["<fim_suffix>", "S", "<fim_prefix>", "P", "<fim_middle>"],
        "ends": ["<|endoftext|>", "<fim_pad>", "<reponame>", "<filename>", "<gh_stars>"],
        "more": ["<assistant>"],
    },
    "granite4": {
        "eos": "<|end_of_text|>",
        "psm": ["<|fim_prefix|>", "P", "<|fim_suffix|>", "S", "<|fim_middle|>"],
        "spm": None,
        "ends": [
            *("<|end_of_text|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"),
            *("<|reponame|>", "<|filename|>"),
        ],
    },
    "glm": {
        "eos": "<|endoftext|>",
        "psm": ["<|code_prefix|>", "P", "<|code_suffix|>", "S", "<|code_middle|>"],
        "spm": None,
        "ends": ["<|endoftext|>", "<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    },
    "seed-coder": {
        "bos": "<[begin▁of▁sentence]>",
        "eos": "<[end▁of▁sentence]>",
        "psm": None,
        "spm": ["<[begin▁of▁sentence]>", "<[fim-suffix]>", "S", "<[fim-prefix]>", "P", "<[fim-middle]>"],
        "ends": ["<[end▁of▁sentence]>", "<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"],
    },
}
ORDERS = [(name, mode) for name, form in PUBLISHED.items() for mode in ("psm", "spm") if form[mode]]
LLAMA_LIKE = ("codellama", "codestral")


def tokenizer_of(name: str) -> Any:
    """A tiny tokenizer of the model's family that holds the tokens of its format, and BOS in front of a text."""
    form = PUBLISHED[name]
    tokens = dict.fromkeys([*(form["psm"] or []), *(form["spm"] or []), *form["ends"], *form.get("more", [])])
    names = [token for token in tokens if token not in ("P", "S", form.get("bos"), form.get("eos"))]
    if name in LLAMA_LIKE or name == "codegemma":
        llama = name in LLAMA_LIKE
        tokenizer = sentencepiece_bpe_tokenizer(prepend=llama, bos=form["bos"], eos=form.get("eos", "</s>"))
        tokenizer.backend_tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in names])
    elif form.get("undeclared"):
        tokenizer = byte_bpe_tokenizer(bos=form.get("bos"), eos=form["eos"], added=names, vocab_size=320)
    else:
        tokenizer = byte_bpe_tokenizer(bos=form.get("bos"), eos=form["eos"], special=names)
    return with_template(tokenizer, f"{form['bos']} $A") if "bos" in form else tokenizer


class Watched(TableLM):
    """A model that remembers what it was asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: list[tuple[int, ...]] = []

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        self.seen.extend(tuple(sequence) for sequence in sequences)
        return super().next_token_logprobs(sequences)


TOKENIZERS = {name: tokenizer_of(name) for name in PUBLISHED}


@cache
def lm_of(name: str) -> ByteLM:
    return ByteLM(Watched(TOKENIZERS[name], seed=3, temperature=2.0))


def model_of(name: str) -> tuple[Watched, ByteLM]:
    """The model, which has not been asked anything yet, and the byte model over it."""
    lm = lm_of(name)
    assert isinstance(lm.token_lm, Watched)
    lm.token_lm.seen.clear()
    return lm.token_lm, lm


@cache
def plain_of(name: str) -> ByteLM:
    """What a user would build by hand: all sentinels special, and each end of the format an end of text."""
    specification = json.loads(TOKENIZERS[name].backend_tokenizer.to_str())
    for token in specification["added_tokens"]:
        token["special"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(specification)))
    ends = {id_of(name, end) for end in PUBLISHED[name]["ends"]}
    return ByteLM(TableLM(tokenizer, seed=3, temperature=2.0), eot_ids=ends)


def id_of(name: str, token: str) -> int:
    found: int = TOKENIZERS[name].get_vocab()[token]
    return found


def encoded(name: str, text: str, *, opens: bool) -> list[int]:
    """The ids of a text by the tokenizer itself; not opening, as CodeLlama's own code does it: behind a mark."""
    backend = TOKENIZERS[name].backend_tokenizer
    if opens or name not in LLAMA_LIKE:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids
    mark = backend.encode("☺", add_special_tokens=False).ids
    ids = backend.encode("☺" + text, add_special_tokens=False).ids
    assert ids[: len(mark)] == mark
    return ids[len(mark) :]


def published_ids(name: str, mode: str, prefix: str = P, suffix: str = S) -> tuple[int, ...]:
    """The published prompt in ids; the suffix, which is no start of a text, without the hidden space."""
    ids: list[int] = []
    for part in PUBLISHED[name][mode]:
        if part == "P":
            ids += encoded(name, prefix, opens=True)
        elif part == "S":
            ids += encoded(name, suffix, opens=False)
        else:
            ids.append(id_of(name, part))
    return tuple(ids)


def by_hand(name: str, mode: str, prefix: str = P, suffix: str = S) -> list[int | str | bytes]:
    """The published prompt as a list prompt: ids, and the prefix as the last text in SPM."""
    if PUBLISHED[name][mode][-1] != "P":
        return [*published_ids(name, mode, prefix, suffix), ""]
    before = published_ids(name, mode, "", suffix)
    return [*before, (" " if name in LLAMA_LIKE else "") + prefix]


def first_row(lm: ByteLM, prefix: str, suffix: str, **options: Any) -> np.ndarray:
    """The row of next-byte log-probabilities that the first byte of the middle is drawn from."""
    rows = []

    def keep(so_far: bytes, row: np.ndarray) -> np.ndarray:
        rows.append(row.copy())
        return row

    lm.infill(prefix, suffix, max_bytes=1, seed=0, logits_processor=keep, **options)
    return rows[0]


# ---- the prompt


@pytest.mark.parametrize(("name", "mode"), ORDERS)
def test_the_prompt_is_the_published_one(name: str, mode: Any) -> None:
    """The model is asked for what follows exactly the published tokens, and in PSM for nothing else."""
    model, lm = model_of(name)
    expected = published_ids(name, mode)

    lm.infill(P, S, mode=mode, carry="none", max_bytes=1, seed=0, temperature=0)

    assert expected in model.seen
    fixed = len(expected) - (0 if mode == "psm" else len(encoded(name, P, opens=True)))
    assert all(sequence[:fixed] == expected[:fixed] for sequence in model.seen)
    if mode == "psm":
        assert model.seen[0] == expected


@pytest.mark.parametrize(("name", "mode"), ORDERS)
@pytest.mark.parametrize(("prefix", "suffix"), [(P, S), ("", S), (P, ""), ("", ""), ("  x", " y"), ("é", "\n\n")])
def test_the_row_is_that_of_the_prompt_by_hand(name: str, mode: Any, prefix: str, suffix: str) -> None:
    """The first byte of the middle is drawn from next_byte_logprobs of the published prompt."""
    _, lm = model_of(name)
    plain = plain_of(name)

    row = first_row(lm, prefix, suffix, mode=mode, carry="none")

    np.testing.assert_allclose(row, plain.next_byte_logprobs(by_hand(name, mode, prefix, suffix)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("prefix", ["", "the", "  return", " x", "def f(", "é", "\n\n", "the quick bro"])
def test_a_space_written_out_is_the_hidden_one(prefix: str) -> None:
    """After a sentinel, a prefix behind a space has the cover of a text whose leading space is hidden."""
    viability = ByteLM(TableLM(TOKENIZERS["codellama"])).viability
    covers = CoverCache(viability)

    hidden = covers.cover(Prompt((1,), prefix.encode(), dummy_prefix=True))
    written = covers.cover(Prompt((1, 7), b" " + prefix.encode(), dummy_prefix=False))

    assert [node.token_ids for node in hidden.nodes] == [node.token_ids for node in written.nodes]


@pytest.mark.parametrize("name", PUBLISHED)
def test_formats_are_found_by_their_tokens(name: str) -> None:
    """The tokenizer's tokens tell the format, also where two formats share their sentinels."""
    assert find_format(read_vocab(TOKENIZERS[name])).name == name
    assert set(FORMATS) == set(PUBLISHED)


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        ("qwen3", "qwen2.5-coder"),
        ("deepseek_v3", "deepseek-coder"),
        ("cl100k", "qwen2.5-coder"),
        ("mistral_v3", "codestral"),
        ("tekken", "codestral"),
        ("gpt2", None),
        ("llama2", None),
        ("smollm2", None),
    ],
)
def test_formats_of_real_tokenizers(load_tokenizer: Callable[[str], Any], tokenizer: str, expected: str | None) -> None:
    """Real tokenizers are known by their tokens, and those without are refused."""
    vocab = read_vocab(load_tokenizer(tokenizer))
    if expected is None:
        with pytest.raises(NoInfillFormatError, match="mode='left'"):
            find_format(vocab)
    else:
        assert find_format(vocab).name == expected


# ---- the carried line

LINES = "a = 1\n\tret"
CARRIED_PARTS = {"line": "\tret", "word": "\tret", "none": ""}
BEHIND_A_SENTINEL = [(name, mode) for name, mode in ORDERS if PUBLISHED[name][mode][-1] != "P"]


@pytest.mark.parametrize(("name", "mode"), BEHIND_A_SENTINEL)
@pytest.mark.parametrize("carry", get_args(Carry))
def test_the_line_is_carried_behind_the_sentinel(name: str, mode: Any, carry: Carry) -> None:
    """The middle goes on from a text behind the last sentinel, as from any prefix, and begins at the cursor."""
    carried = CARRIED_PARTS[carry]
    kept = LINES.removesuffix(carried)
    _, lm = model_of(name)
    prompt: Prefix = [*published_ids(name, mode, kept, S), carried]
    options: dict[str, Any] = {"seed": 3, "max_bytes": 9}

    row = first_row(lm, LINES, S, mode=mode, carry=carry)
    done = lm.infill(LINES, S, mode=mode, carry=carry, **options)

    np.testing.assert_allclose(row, plain_of(name).next_byte_logprobs(prompt), atol=1e-9, rtol=0)
    assert done.bytes == plain_of(name).sample(prompt, **options).bytes
    batch = lm.infill_batch([(LINES, S)], mode=mode, carry=carry, **options)
    assert [each.bytes for each in batch if isinstance(each, Completion)] == [done.bytes]
    assert "".join(lm.infill_stream(LINES, S, mode=mode, carry=carry, **options)) == done.text


@pytest.mark.parametrize(("name", "mode"), [order for order in ORDERS if order not in BEHIND_A_SENTINEL])
def test_nothing_is_carried_where_the_middle_goes_on_from_the_prefix(name: str, mode: Any) -> None:
    """Where prefix and middle are one text already, the carried line changes nothing."""
    _, lm = model_of(name)

    rows = [first_row(lm, LINES, S, mode=mode, carry=carry) for carry in get_args(Carry)]

    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


@pytest.mark.parametrize("name", sorted({name for name, _ in BEHIND_A_SENTINEL}))
def test_a_carried_line_that_spells_a_sentinel_stays_text(name: str) -> None:
    """The ids of the sentinels are in the prompt as often as the format says."""
    model, lm = model_of(name)
    mode: Any = "psm" if PUBLISHED[name]["psm"] else "spm"
    sentinels = [token for token in PUBLISHED[name][mode] if token not in ("P", "S")]
    spelled = "".join(sentinels).replace("▁", " ") if name in LLAMA_LIKE else "".join(sentinels)

    lm.infill(f"x\n{spelled}", S, mode=mode, max_bytes=1, seed=0)

    ids = [id_of(name, token) for token in sentinels]
    assert all([token for token in asked if token in ids] == ids for asked in model.seen)


@pytest.mark.parametrize(
    ("prefix", "line", "word"),
    [
        ("", "", ""),
        ("x = 1\n", "", ""),
        ("x = 1\r\n    if a", "    if a", " a"),
        ("x = ", "x = ", " "),
        ("x\n\t\t", "\t\t", "\t\t"),
        ("foo(bar, ba", "foo(bar, ba", " ba"),
        ("x\n日本", "日本", "日本"),
        ("a" * CARRIED, "a" * CARRIED, "a" * CARRIED),
        ("b " + "a" * CARRIED, "a" * CARRIED, "a" * CARRIED),
        ("long " * 99 + "wo", " wo", " wo"),
        ("é" * 200, "é" * 128, "é" * 128),
        ("x" + "日" * 99, "日" * 85, "日" * 85),
    ],
)
def test_what_is_carried(prefix: str, line: str, word: str) -> None:
    """The last line or word, with the white space before it; of a long line the last word, of a long word its end."""
    data = prefix.encode()

    assert data[carried_from(data, "line") :].decode() == line
    assert data[carried_from(data, "word") :].decode() == word
    assert carried_from(data, "none") == len(data)


# ---- text and sentinels


@pytest.mark.parametrize(("name", "mode"), ORDERS)
def test_text_that_spells_a_sentinel_stays_text(name: str, mode: Any) -> None:
    """Each sentinel is in the prompt as often as the format says, and the spelled ones are bytes of the text."""
    model, lm = model_of(name)
    special = [token for token in PUBLISHED[name][mode] if token not in ("P", "S")]
    sentinels, ended = "".join(special), "".join(PUBLISHED[name]["ends"])
    if name in LLAMA_LIKE:  # a text with ▁, which is a space to them, does not come back from decoding
        sentinels, ended = sentinels.replace("▁", " "), ended.replace("▁", " ")
    prefix, suffix = f"a{sentinels}", f"b{ended}"

    lm.infill(prefix, suffix, mode=mode, carry="none", max_bytes=1, seed=0)

    asked = max(model.seen, key=len)
    if mode == "psm":
        asked = model.seen[0]
    ids = [id_of(name, token) for token in special]
    assert [token for token in asked if token in ids] == ids
    ends = {id_of(name, end) for end in PUBLISHED[name]["ends"]} - set(ids)
    assert not ends & set(asked)
    texts: list[bytes] = [b""]
    for token in asked:
        if token in ids:
            texts.append(b"")
        else:
            texts[-1] += lm.viability.vocab.spell((token,))
    dummy_prefix = " " if name in LLAMA_LIKE else ""
    written = [text.decode() for text in texts if text]
    if mode == "psm":
        assert written == [dummy_prefix + prefix, suffix]
    else:
        assert written[0] == suffix
        assert (dummy_prefix + prefix).startswith(written[1][: len(dummy_prefix + prefix)])


def test_the_middle_may_spell_a_sentinel() -> None:
    """A middle that spells an end in text is not cut by it; the model's own end ends it."""
    name = "qwen2.5-coder"
    middle = "<|file_sep|>!"
    tokenizer = TOKENIZERS[name]
    ids = [tokenizer.get_vocab()[piece] for piece in middle]  # a byte each, where no merge is known
    begin, end = id_of(name, "<|fim_middle|>"), id_of(name, "<|endoftext|>")
    undeclared = ByteLM(TableLM(tokenizer)).infilling([("", "")], InfillSettings(format=name))[0].viability
    spelled = undeclared.vocab.encode(middle)

    def written(context: tuple[int, ...]) -> dict[int, float]:
        done = len(context) - context.index(begin) - 1
        return {spelled[done] if done < len(spelled) else end: 1.0}

    done = ByteLM(TableLM(tokenizer, table=written)).infill("a", "b", carry="none", seed=0)

    assert len(ids) == len(middle)
    assert (done.text, done.finish_reason) == (middle, "eot")


def test_declared_changes_only_what_is_not_special() -> None:
    """Published sentinels are special as they are; those of a format of one's own are declared, on a copy."""
    mine = FIMFormat("mine", psm=("<a>", "{prefix}", "<b>", "{suffix}", "<c>"), ends=("<end>",))
    plain = byte_bpe_tokenizer(added=("<a>", "<b>", "<c>", "<end>", "<other>"))

    assert declared(read_vocab(TOKENIZERS["starcoder"]), FORMATS["starcoder"]) is None
    assert declared(read_vocab(TOKENIZERS["qwen2.5-coder"]), FORMATS["qwen2.5-coder"]) is None
    changed = declared(read_vocab(plain), mine)
    assert changed is not None
    flags = {token.content: token.special for token in changed.get_added_tokens_decoder().values()}
    before = {token.content: token.special for token in plain.added_tokens_decoder.values()}
    assert [flags[token] for token in ("<a>", "<end>", "<|eot|>", "<other>")] == [True, True, True, False]
    assert not before["<a>"]


# ---- modes


@pytest.mark.parametrize("name", PUBLISHED)
def test_auto_is_spm_where_there_is_one(name: str) -> None:
    """Auto takes the order in which prefix and middle are one text, and PSM where only that is known."""
    _, lm = model_of(name)
    chosen = "spm" if PUBLISHED[name]["spm"] else "psm"

    np.testing.assert_array_equal(first_row(lm, P, S), first_row(lm, P, S, mode=chosen))


def test_spm_sees_the_token_across_the_cursor() -> None:
    """The token that spans the cursor has its probability in SPM; in PSM, the prefix's own tokens stand there."""
    name = "starcoder"
    tokenizer = TOKENIZERS[name]
    word = tokenizer(" return").input_ids
    assert len(word) == 1
    colon = tokenizer("f:").input_ids
    middle, end = id_of(name, "<fim_middle>"), id_of(name, "<|endoftext|>")

    def trained(context: tuple[int, ...]) -> dict[int, float]:
        rest = context[context.index(middle) + 1 :]
        script = (*colon, *word, end)
        if rest == script[: len(rest)] and len(rest) < len(script):
            return {script[len(rest)]: 1.0}
        return {tokenizer("?").input_ids[0]: 1.0}

    lm = ByteLM(TableLM(tokenizer, table=trained))

    done = lm.infill("f: ret", "\n", temperature=0, max_bytes=9)
    assert (done.text, done.bytes, done.finish_reason) == ("urn", b"urn", "eot")
    assert lm.infill("f: ret", "\n", temperature=0, max_bytes=3, mode="psm").text == "urn"  # the line is carried
    assert lm.infill("f: ret", "\n", temperature=0, max_bytes=3, mode="psm", carry="none").text == "f: "


def test_left_is_sample_of_the_prefix() -> None:
    """Mode "left" works for any tokenizer, and is the completion of the prefix alone."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))
    options: dict[str, Any] = {"seed": 4, "max_bytes": 20, "top_p": 0.9}

    assert lm.infill(P, S, mode="left", **options) == lm.sample(P, **options)
    assert lm.infill("", "", mode="left", **options).bytes == lm.sample("", **options).bytes
    several = lm.infill(P, S, mode="left", n=2, **options)
    assert isinstance(several, list)
    assert [done.bytes for done in several] == [done.bytes for done in lm.sample_batch([P, P], **options)]


@pytest.mark.parametrize(("name", "mode"), [("starcoder", "spm"), ("qwen2.5-coder", "psm"), ("codellama", "spm")])
def test_the_options_are_those_of_sample(name: str, mode: Any) -> None:
    """Batches, seeds, filters and stop strings give what `sample` gives after the prompt by hand."""
    _, lm = model_of(name)
    plain = plain_of(name)
    options: dict[str, Any] = {"seed": 5, "max_bytes": 15, "temperature": 0.8, "top_k": 40, "top_p": 0.9}
    options |= {"min_p": 0.001, "stop": ["a", "\n"], "n": 3}

    actual = lm.infill(P, S, mode=mode, carry="none", **options)
    expected = plain.sample(by_hand(name, mode), **options)

    assert isinstance(actual, list)
    assert isinstance(expected, list)
    assert [(d.bytes, d.finish_reason) for d in actual] == [(d.bytes, d.finish_reason) for d in expected]
    assert [d.logprob for d in actual] == pytest.approx([d.logprob for d in expected], abs=1e-9)


@pytest.mark.parametrize("mode", ["spm", "psm", "left"])
def test_a_stream_is_the_middle_in_pieces(mode: Mode) -> None:
    """The pieces of `infill_stream`, joined, are the text of `infill` with the same options, in every order."""
    lm = lm_of("starcoder")
    options: dict[str, Any] = {"seed": 4, "max_bytes": 9, "top_k": 60, "stop": "e"}

    pieces = list(lm.infill_stream(P, S, mode=mode, **options))

    assert len(pieces) > 1
    assert "".join(pieces) == lm.infill(P, S, mode=mode, **options).text
    with pytest.raises(InvalidArgumentError):
        lm.infill_stream(P, S, mode=mode, max_bytes=-1)


def test_infilling_leaves_the_model_as_it_was() -> None:
    """Rows and ends of the model are the same before and after."""
    _, lm = model_of("qwen2.5-coder")
    before, ends = lm.next_byte_logprobs("the <|fim"), lm.eot_ids

    lm.infill(P, S, max_bytes=3, seed=0)

    np.testing.assert_array_equal(lm.next_byte_logprobs("the <|fim"), before)
    assert lm.eot_ids == ends


# ---- ends


@pytest.mark.parametrize(("name", "end"), [(name, end) for name in PUBLISHED for end in PUBLISHED[name]["ends"]])
def test_every_end_of_middle_endedthe_text(name: str, end: str) -> None:
    """Whichever of the ends the model writes, the completion is the middle before it, with its probability."""
    tokenizer = TOKENIZERS[name]
    mode = "spm" if PUBLISHED[name]["spm"] else "psm"
    prefix = "x"
    prompt = published_ids(name, mode, prefix, S)
    start = len(prompt)
    piece = encoded(name, ";", opens=False)[0]

    def written(context: tuple[int, ...]) -> dict[int, float]:
        if len(context) < start:
            return {prompt[len(context)]: 1.0}
        return {piece: 1.0} if len(context) == start else {id_of(name, end): 0.5, piece: 0.5}

    lm = ByteLM(TableLM(tokenizer, table=written, eot_ids=()))
    done = lm.infill(prefix, S, carry="none", temperature=1, seed=0, max_bytes=99)

    assert done.finish_reason == "eot"
    assert set(done.text) == {";"}
    assert done.logprob == pytest.approx(len(done.text) * math.log(0.5))


def test_no_other_special_token_is_an_end() -> None:
    """Without the format's ends, their mass is leak and no end."""
    name = "starcoder2"
    _, lm = model_of(name)
    ends = [id_of(name, end) for end in PUBLISHED[name]["ends"]]

    row = lm.next_byte_logprobs(by_hand(name, "psm"))
    infilled = first_row(lm, P, S, mode="psm", carry="none")

    model = TableLM(TOKENIZERS[name], seed=3, temperature=2.0)
    probs = np.exp(model.next_token_logprobs([published_ids(name, "psm")])[0])
    assert np.exp(row[256]) == pytest.approx(probs[ends[0]])
    assert np.exp(infilled[256]) == pytest.approx(probs[ends].sum())


# ---- a format of one's own


def test_a_format_of_ones_own_is_one_line() -> None:
    """Any special tokens can be the sentinels; a name or an object overrides what is found."""
    tokenizer = byte_bpe_tokenizer(special=("<a>", "<b>", "<c>", "<end>"))
    a, b, c = (tokenizer.get_vocab()[token] for token in ("<a>", "<b>", "<c>"))
    lm = ByteLM(TableLM(tokenizer, seed=3), eot_ids=[0, tokenizer.get_vocab()["<end>"]])
    mine = FIMFormat("mine", psm=("<a>", "{prefix}", "<b>", "{suffix}", "<c>"), ends=("<end>",))

    np.testing.assert_allclose(
        first_row(lm, P, S, format=mine, carry="none"),
        lm.next_byte_logprobs([a, P, b, S, c, ""]),
        atol=1e-9,
    )
    spm = dataclasses.replace(
        FORMATS["qwen2.5-coder"], spm=("<|fim_suffix|>", "{suffix}", "<|fim_prefix|>", "{prefix}")
    )
    _, qwen = model_of("qwen2.5-coder")
    prompt: list[int | str | bytes] = [
        id_of("qwen2.5-coder", "<|fim_suffix|>"),
        S,
        id_of("qwen2.5-coder", "<|fim_prefix|>"),
        P,
    ]
    plain = plain_of("qwen2.5-coder")
    np.testing.assert_allclose(first_row(qwen, P, S, format=spm), plain.next_byte_logprobs(prompt), atol=1e-9)


def test_a_name_overrides_what_is_found() -> None:
    """StarCoder's tokens are found as StarCoder2's where there is a file separator; the name says otherwise."""
    model, lm = model_of("starcoder2")
    ends, file_sep = (id_of("starcoder2", end) for end in ("<|endoftext|>", "<fim_pad>")), "<file_sep>"
    row = first_row(lm, P, S, mode="psm", format="starcoder", carry="none")
    probs = np.exp(model.next_token_logprobs([published_ids("starcoder2", "psm")])[0])

    assert np.exp(row[256]) == pytest.approx(sum(probs[end] for end in ends))
    assert probs[id_of("starcoder2", file_sep)] > 0


# ---- what goes wrong


def test_a_model_without_the_tokens_is_told_of_left() -> None:
    """No format is known, or that which was asked for is not there: an error that offers mode="left", and no call."""
    lm = ByteLM(TableLM(default_tokenizer()))
    mine = FIMFormat("mine", psm=("<|eot|>", "{prefix}", "<|eot|>", "{suffix}", "<|eot|>"), ends=("<none>",))
    wanted: list[Any] = [None, "starcoder", mine]
    for form in wanted:
        with pytest.raises(NoInfillFormatError, match="mode='left'") as caught:
            lm.infill(P, S, format=form)
        assert isinstance(caught.value, BytelmError)
    assert lm.token_lm.usage.calls == 0  # type: ignore[attr-defined]


@pytest.mark.usefixtures("caller_errs")
def test_bad_arguments() -> None:
    """Modes and formats that there are not, wrong types, and the options of `sample` are refused before any call."""
    lm = ByteLM(TableLM(TOKENIZERS["starcoder"]))
    cases: list[tuple[type[Exception], dict[str, Any], str]] = [
        (InvalidArgumentError, {"mode": "middle"}, "auto, spm, psm, left"),
        (InvalidArgumentError, {"format": "cobol"}, "cobol"),
        (InvalidArgumentError, {"carry": "page"}, "line, word, none"),
        (InvalidTypeError, {"format": 3}, "format"),
        (InvalidArgumentError, {"temperature": -1}, "temperature"),
        (InvalidArgumentError, {"n": 0}, "n must"),
        (InvalidTypeError, {"suffix": 3}, "suffix"),
        (InvalidTypeError, {"prefix": ["a"]}, "prefix"),
        (TypeError, {"temprature": 1}, "temprature"),
    ]
    for error, options, message in cases:
        with pytest.raises(error, match=message):
            lm.infill(**{"prefix": "a", "suffix": "b", **options})
    assert lm.token_lm.usage.calls == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "mode"), [(n, m) for n, f in PUBLISHED.items() for m in ("psm", "spm") if not f[m]])
def test_an_order_that_is_not_known_is_refused(name: str, mode: Any) -> None:
    """Where a maker documents one order, the other is an error that says how to give it."""
    _, lm = model_of(name)

    with pytest.raises(InvalidArgumentError, match=f"{mode} order"):
        lm.infill(P, S, mode=mode)


def test_a_cursor_inside_a_character() -> None:
    """A cut prefix goes on, unless nothing of it is carried; no order takes a suffix that begins cut."""
    _, lm = model_of("starcoder")

    for mode in ("spm", "psm"):
        done = lm.infill(b"caf\xc3", " x", mode=mode, seed=0, max_bytes=1)
        assert 0x80 <= done.bytes[0] < 0xC0
    with pytest.raises(UnreachablePrefixError, match="mode='spm'"):
        lm.infill(b"caf\xc3", " x", mode="psm", carry="none")
    with pytest.raises(UnreachablePrefixError, match="carry='line'"):
        model_of("granite")[1].infill(b"caf\xc3", " x", carry="none")
    modes: tuple[Mode, ...] = ("psm", "spm")
    for mode in modes:
        with pytest.raises(UnreachablePrefixError, match="suffix is not UTF-8 at byte 0"):
            lm.infill("caf", b"\xa9 x", mode=mode)


@pytest.mark.parametrize(
    "orders",
    [
        {},
        {"psm": ("<a>", "{prefix}", "<b>")},
        {"psm": ("{prefix}", "<b>", "{suffix}", "<c>")},
        {"psm": ("<a>", "{prefix}", "<b>", "{suffix}")},
        {"spm": ("<a>", "{prefix}", "<b>", "{suffix}")},
        {"spm": ("<a>", "{suffix}", "<b>", "{prefix}", "{suffix}")},
        {"spm": ("<a>", "{suffix}", "{suffix}", "{prefix}")},
    ],
)
def test_a_format_that_cannot_be_is_refused(orders: dict[str, tuple[str, ...]]) -> None:
    """Each order holds both texts once, begins with a sentinel, and ends where the middle begins."""
    with pytest.raises(InvalidArgumentError, match="mine"):
        FIMFormat("mine", **orders)  # type: ignore[arg-type]


def test_a_format_from_lists_is_that_from_tuples() -> None:
    """As a file of JSON has it; one string in place of several is told. Types are checked here, so another process."""
    code = """if True:
        from bytelm.errors import InvalidTypeError
        from bytelm.fim import FIMFormat
        psm = ["<a>", "{prefix}", "<b>", "{suffix}", "<c>"]
        listed, tupled = FIMFormat("mine", psm, ends=["<e>"]), FIMFormat("mine", tuple(psm), ends=("<e>",))
        assert (listed, hash(listed)) == (tupled, hash(tupled))
        try:
            FIMFormat("mine", psm, ends="<e>")
        except InvalidTypeError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "ends of the format 'mine' must be a list of strings; got '<e>'\n"


def test_a_format_from_a_file(tmp_path: Path) -> None:
    """A JSON object with the attributes of a format is that format; without a name it is called as the file."""
    file = tmp_path / "mine.json"
    fields = {"psm": ["<a>", "{prefix}", "<b>", "{suffix}", "<c>"], "ends": ["<e>"], "space_before_prefix": False}
    expected = FIMFormat(
        "mine", psm=("<a>", "{prefix}", "<b>", "{suffix}", "<c>"), ends=("<e>",), space_before_prefix=False
    )

    file.write_text(json.dumps(fields))
    assert read_format(file) == expected
    file.write_text(json.dumps({**fields, "name": "ours"}))
    assert read_format(str(file)) == dataclasses.replace(expected, name="ours")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "cannot read"),
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"psm": "<a>"}', "psm.*list of strings.*'<a>'"),
        ('{"spm": ["<a>", 3]}', "spm.*list of strings"),
        ('{"ends": null}', "ends.*list of strings"),
        ('{"name": 3}', "name.*string"),
        ('{"space_before_suffix": "no"}', "space_before_suffix.*true or false"),
        ('{"sentinels": []}', "unknown fields.*sentinels.*psm"),
        ('{"psm": ["<a>", "{prefix}"]}', "psm.*suffix"),
        ("{}", "neither a psm nor an spm"),
    ],
)
def test_a_file_that_is_no_format_is_told_by_its_field(tmp_path: Path, text: str | None, named: str) -> None:
    """Whatever is wrong with the file, the error names the file's field or what the file is."""
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BytelmError, match=named):
        read_format(file)


def test_the_way_to_a_missing_order_can_be_followed() -> None:
    """The message names the field that is missing."""
    mine = FIMFormat("mine", psm=("<a>", "{prefix}", "<b>", "{suffix}", "<c>"))

    with pytest.raises(InvalidArgumentError, match=r"replace\(form, spm"):
        mine.order("spm")
    with pytest.raises(InvalidArgumentError, match=r"replace\(form, spm"):
        FORMATS["granite"].order("spm")


def test_a_single_completion_is_no_list() -> None:
    """As with `sample`, n=1 gives a completion."""
    _, lm = model_of("starcoder")

    assert isinstance(lm.infill(P, S, max_bytes=1, seed=0), Completion)
