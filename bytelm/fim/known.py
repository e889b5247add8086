"""The formats that models were trained with, and which of them a tokenizer speaks of.

Sources
    For each format what its maker, or the evaluation harness of its time, runs. Qwen2.5-Coder's ends are those of its
    model card; Seed-Coder's order is in arXiv:2506.03524, section 2.2; Mellum's order and files are those of its model
    card; Granite 4's are its tokenizer's tokens in the order of Granite's cards; GLM's order is that of Zed.
    Other files: Qwen2.5-Coder as in its maker's example Qwen2.5-Coder-repolevel-fim.py; StarCoder2 as in
    arXiv:2402.19173, section 5.1; CodeGemma's maker publishes the token between files and no place for names, so they
    are comments; Codestral as Continue's template has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from bytelm.errors import InvalidArgumentError, InvalidTypeError, NoInfillFormatError
from bytelm.fim.format import PREFIX, SUFFIX, FIMFormat
from bytelm.tokenizer.control_tokens import with_special

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bytelm.tokenizer.vocab import Vocab


def _three(
    name: str,
    tokens: tuple[str, str, str],
    *,
    ends: tuple[str, ...],
    spm: bool = False,
    marks: tuple[str, ...] = (),
    **files: Any,
) -> FIMFormat:
    """A format of three sentinels: the prefix begins, the suffix begins, the middle begins."""
    begin, hole, middle = tokens
    suffix_first = (begin, hole, SUFFIX, middle, PREFIX) if spm else ()
    return FIMFormat(name, (begin, PREFIX, hole, SUFFIX, middle), suffix_first, ends, marks, **files)


_BARS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_UNDERSCORES = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_HYPHENS = ("<fim-prefix>", "<fim-suffix>", "<fim-middle>")
_CODE = ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>")
_DEEPSEEK = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")  # hole: the suffix begins; end: the middle begins

_STARCODER_FILES = ("<fim_pad>", "<reponame>", "<filename>", "<gh_stars>")

_KNOWN = (
    # In the order of detection: of two with the same sentinels, the one with marks first.
    _three("codellama", ("▁<PRE>", "▁<SUF>", "▁<MID>"), ends=("▁<EOT>", "</s>"), spm=True),
    _three("santacoder", _HYPHENS, ends=("<|endoftext|>", "<fim-pad>"), spm=True),
    _three(
        "starcoder2",
        _UNDERSCORES,
        ends=("<|endoftext|>", "<fim_pad>", "<repo_name>", "<file_sep>"),
        spm=True,
        marks=("<file_sep>",),
        repository=("<repo_name>", "{repository}"),
        file=("<file_sep>", "{name}\n{text}"),
        this_file=("<file_sep>",),
        prefix_head="{name}\n",
    ),
    # Suffix first, and the middle begins behind a token of its own, as Seed-Coder's.
    FIMFormat(
        "mellum",
        spm=("<fim_suffix>", SUFFIX, "<fim_prefix>", PREFIX, "<fim_middle>"),
        ends=("<|endoftext|>", *_STARCODER_FILES),
        marks=("<filename>", "<assistant>"),
        file=("<filename>", "{name}\n{text}\n"),
        this_file=("<filename>", "{name}\n"),
    ),
    _three("granite", _UNDERSCORES, ends=("<|end_of_text|>", *_STARCODER_FILES), marks=("<|end_of_text|>",)),
    _three("starcoder", _UNDERSCORES, ends=("<|endoftext|>", *_STARCODER_FILES), spm=True),
    _three("deepseek-coder", _DEEPSEEK, ends=("<｜end▁of▁sentence｜>", "<|EOT|>"), spm=True),
    _three(
        "codegemma",
        _BARS,
        ends=("<|file_separator|>", "<eos>", *_BARS),
        marks=("<|file_separator|>",),
        file=("{comment} {name}\n{text}", "<|file_separator|>"),
    ),
    _three(
        "granite4",
        _BARS,
        ends=("<|end_of_text|>", *_BARS, "<|fim_pad|>", "<|reponame|>", "<|filename|>"),
        marks=("<|end_of_text|>",),
    ),
    _three(
        "qwen2.5-coder",
        _BARS,
        ends=("<|endoftext|>", "<|im_end|>", *_BARS, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
        repository=("<|repo_name|>", "{repository}\n"),
        file=("<|file_sep|>", "{name}\n{text}\n"),
        this_file=("<|file_sep|>", "{name}\n"),
    ),
    _three("glm", _CODE, ends=("<|endoftext|>", *_CODE)),
    # No middle token: the middle goes on from the prefix.
    FIMFormat(
        "codestral",
        spm=("[SUFFIX]", SUFFIX, "[PREFIX]", PREFIX),
        ends=("</s>",),
        file=("+++++ {name}\n{text}\n\n",),
        prefix_head="+++++ {name}\n",
    ),
    # Suffix first, and yet the middle begins behind a token of its own.
    FIMFormat(
        "seed-coder",
        spm=("<[fim-suffix]>", SUFFIX, "<[fim-prefix]>", PREFIX, "<[fim-middle]>"),
        ends=("<[end▁of▁sentence]>", "<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"),
    ),
)

FORMATS: Final[Mapping[str, FIMFormat]] = MappingProxyType({known.name: known for known in _KNOWN})


def find_format(vocab: Vocab, wanted: str | FIMFormat | None = None) -> FIMFormat:
    """The format that a user asked for, or the one that the tokenizer's added tokens speak of.

    Args:
        vocab: Of the tokenizer.
        wanted: A name in `FORMATS`, a format, or None: the first of `FORMATS` whose sentinels and marks are there.

    Raises:
        InvalidTypeError: It is neither.
        InvalidArgumentError: No format has this name.
        NoInfillFormatError: The tokenizer lacks the tokens of the format, or has the tokens of none.
    """
    present = {token.content for token in vocab.added}
    if wanted is None:
        for known in FORMATS.values():
            if present.issuperset((*known.sentinels, *known.marks)):
                return known
        raise NoInfillFormatError(
            "the tokenizer has the tokens of no known fill-in-the-middle format "
            f"({', '.join(FORMATS)}), so the model cannot see the suffix; use mode='left', which completes the prefix "
            "alone and works for any model, or name the tokens with format=FIMFormat(...) (--format FILE.json)"
        )
    if isinstance(wanted, str):
        if wanted not in FORMATS:
            raise InvalidArgumentError(f"no fill-in-the-middle format is called {wanted!r}; there are {[*FORMATS]}")
        wanted = FORMATS[wanted]
    if not isinstance(wanted, FIMFormat):
        raise InvalidTypeError(f"format must be a name, a FIMFormat or None, not {type(wanted).__name__}: {wanted!r}")
    if missing := [token for token in wanted.sentinels if token not in present]:
        raise NoInfillFormatError(
            f"the tokenizer lacks the tokens {missing} of the format {wanted.name!r}; use mode='left', which completes "
            "the prefix alone and works for any model, or another format"
        )
    if wanted.name not in FORMATS and wanted.ends and present.isdisjoint(wanted.ends):
        raise NoInfillFormatError(
            f"the tokenizer has none of the tokens that end a middle in the format {wanted.name!r}: "
            f"{list(wanted.ends)}; use another format, or mode='left'"
        )
    return wanted


def end_ids(vocab: Vocab, form: FIMFormat) -> frozenset[int]:
    """The ids of the tokens that end a middle, as far as the tokenizer has them."""
    return frozenset(token.id for token in vocab.added if token.content in form.ends)


def declared(vocab: Vocab, form: FIMFormat) -> Tokenizer | None:
    """The tokenizer with the format's tokens declared special; None where they are.

    Where they are not, the tokenizer turns text that spells a sentinel into the sentinel.
    """
    names, special = (
        {*form.sentinels, *form.ends, *form.file_tokens},
        {token.content for token in vocab.added if token.special},
    )
    if special.issuperset(names.intersection(token.content for token in vocab.added)):
        return None
    return with_special(vocab.source, special | names)
