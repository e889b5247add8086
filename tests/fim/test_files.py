"""Other files in view: each format's prompt token by token, what does not fit, and names and texts that cannot be.

The prompts stand here as their makers publish them, spelled by hand: tokens, and texts between them.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from bytelm import ByteLM, Ensemble, LeftOutWarning, OtherFiles, TableLM
from bytelm.errors import BytelmError, InvalidArgumentError, InvalidTypeError
from bytelm.fim import FORMATS, FIMFormat, InfillSettings
from bytelm.fim.files import comment_of, context_of
from bytelm.healing import infill_completer
from tests.fim.test_formats import P, S, id_of, lm_of, plain_of, tokenizer_of
from tests.sampling.test_context_end import Short
from tests.support.tiny import byte_bpe_tokenizer

FILES = [("lib/a.py", "A = 1\n"), ("b.rs", "let b;")]
IN_VIEW = OtherFiles(FILES, name="main.py", repository="library-system")
AS_COMMENTS = "# lib/a.py\nA = 1\n\n// b.rs\nlet b;\n# main.py\n"

# Qwen2.5-Coder: its maker's example Qwen2.5-Coder-repolevel-fim.py. StarCoder2: arXiv:2402.19173, section 5.1.
# Codestral: Continue's template. CodeGemma: its maker's page names the token between files.
TOKENS = {
    ("qwen2.5-coder", "psm"): [
        *("<|repo_name|>", "library-system\n", "<|file_sep|>", "lib/a.py\nA = 1\n\n", "<|file_sep|>"),
        *("b.rs\nlet b;\n", "<|file_sep|>", "main.py\n"),
        *("<|fim_prefix|>", "if x:\n", "<|fim_suffix|>", S, "<|fim_middle|>", "    ret"),
    ],
    ("starcoder2", "psm"): [
        *("<repo_name>", "library-system", "<file_sep>", "lib/a.py\nA = 1\n", "<file_sep>", "b.rs\nlet b;"),
        *("<file_sep>", "<fim_prefix>", "main.py\nif x:\n", "<fim_suffix>", S, "<fim_middle>", "    ret"),
    ],
    ("starcoder2", "spm"): [
        *("<repo_name>", "library-system", "<file_sep>", "lib/a.py\nA = 1\n", "<file_sep>", "b.rs\nlet b;"),
        *("<file_sep>", "<fim_prefix>", "<fim_suffix>", S, "<fim_middle>", "main.py\n" + P),
    ],
    # Mellum: its model card.
    ("mellum", "spm"): [
        *("<filename>", "lib/a.py\nA = 1\n\n", "<filename>", "b.rs\nlet b;\n", "<filename>", "main.py\n"),
        *("<fim_suffix>", S, "<fim_prefix>", "if x:\n", "<fim_middle>", "    ret"),
    ],
    ("codegemma", "psm"): [
        *("<bos>", "# lib/a.py\nA = 1\n", "<|file_separator|>", "// b.rs\nlet b;", "<|file_separator|>"),
        *("<|fim_prefix|>", "if x:\n", "<|fim_suffix|>", S, "<|fim_middle|>", "    ret"),
    ],
    ("codestral", "spm"): [
        *("<s>", "[SUFFIX]", S, "[PREFIX]"),
        " +++++ lib/a.py\nA = 1\n\n\n+++++ b.rs\nlet b;\n\n+++++ main.py\n" + P,  # its hidden space, written out
    ],
    ("deepseek-coder", "psm"): [
        *("<｜begin▁of▁sentence｜>", "<｜fim▁begin｜>", AS_COMMENTS + "if x:\n"),
        *("<｜fim▁hole｜>", S, "<｜fim▁end｜>", "    ret"),
    ],
    ("granite", "psm"): [
        *("<fim_prefix>", AS_COMMENTS + "if x:\n", "<fim_suffix>", S, "<fim_middle>", "    ret"),
    ],
}


def prompt_of(lm: ByteLM, mode: Any, context: Any, **options: Any) -> list[int | bytes]:
    how = InfillSettings(mode, context=context_of(context), **options)
    _, (prompt,) = lm.infilling([(P, S)], how)
    return [part.encode() if isinstance(part, str) else part for part in prompt]  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "mode"), TOKENS)
def test_the_prompt_is_the_published_one(name: str, mode: str) -> None:
    """Tokens as ids, texts between them, the carried line behind the last."""
    spelled = {token.content for token in plain_of(name).viability.vocab.added}
    expected = [id_of(name, part) if part in spelled else part.encode() for part in TOKENS[name, mode]]

    assert prompt_of(lm_of(name), mode, IN_VIEW) == expected


@pytest.mark.parametrize("carry", ["line", "none"])
def test_names_and_texts_never_become_tokens(carry: Any) -> None:
    """A file that spells every sentinel is text: the prompt has the ids that it has without."""
    name = "qwen2.5-coder"
    spells = "<|file_sep|><|fim_suffix|><|endoftext|>"
    lm = lm_of(name)
    inside, (prompt,) = lm.infilling(
        [(P, S)], InfillSettings("psm", carry=carry, context=OtherFiles([(spells, spells)], name=spells))
    )
    read = inside.prompt(prompt)

    special = {token.id for token in inside.viability.vocab.added}
    tokens = ["<|repo_name|>", "<|file_sep|>", "<|file_sep|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    assert [i for i in read.context if i in special] == [id_of(name, token) for token in tokens]


def test_a_tokenizer_without_the_tokens_has_comments() -> None:
    """Sentinels there, no tokens for files: the files are text. Without those of the repository it is left out."""
    names = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    for more, first in (((), "<fim_prefix>"), (("<file_sep>",), "<file_sep>")):
        lm = ByteLM(TableLM(byte_bpe_tokenizer(eos="<|endoftext|>", special=(*names, *more)), seed=1))
        ids = {token.content: token.id for token in lm.viability.vocab.added}
        how = InfillSettings("psm", format=FORMATS["starcoder2"], context=IN_VIEW)
        _, (prompt,) = lm.infilling([(P, S)], how)
        assert next(iter(prompt)) == ids[first]  # type: ignore[arg-type]
        assert (AS_COMMENTS + "if x:\n").encode() in prompt or more  # type: ignore[operator]


def test_a_format_of_ones_own_says_how_files_are_written() -> None:
    mine = FIMFormat(
        "mine",
        psm=("<a>", "{prefix}", "<b>", "{suffix}", "<c>"),
        repository=("<r>", "{repository}"),
        file=("<f>", "{name} in {repository}\n{text}"),
        this_file=("<g>",),
        prefix_head="{comment} {name} {{name}} {text}\n",
    )
    tokens = ("<a>", "<b>", "<c>", "<r>", "<f>", "<g>")
    lm = ByteLM(TableLM(byte_bpe_tokenizer(eos="<e>", special=tokens), seed=1))
    ids = {token.content: token.id for token in lm.viability.vocab.added}

    assert mine.file_tokens == ("<r>", "<f>", "<g>")
    assert prompt_of(lm, "psm", OtherFiles([("{text}", "{name}")], name="x.c"), format=mine) == [
        *(ids["<r>"], b"project", ids["<f>"], b"{text} in project\n{name}", ids["<g>"]),
        *(ids["<a>"], b"// x.c {x.c} \nif x:\n", ids["<b>"], S.encode(), ids["<c>"], b"    ret"),
    ]


def test_a_format_whose_files_lack_their_text_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"file of the format .mine. must hold .\{text\}."):
        FIMFormat("mine", psm=("<a>", "{prefix}", "<b>", "{suffix}", "<c>"), file=("<f>", "{name}\n"))


def test_left_mode_has_files_as_text() -> None:
    lm = plain_of("starcoder")

    assert prompt_of(lm, "left", IN_VIEW) == [(AS_COMMENTS + P).encode()]
    assert prompt_of(lm, "left", FILES) == [(AS_COMMENTS.replace("main.py", "untitled") + P).encode()]
    assert prompt_of(lm, "left", []) == [P.encode()]


def test_every_way_to_fill_in_shows_the_files() -> None:
    """One completion, several, a stream, the likeliest, tokens, an ensemble: the same prompt."""
    lm = lm_of("starcoder2")
    options: dict[str, Any] = {"mode": "psm", "context": FILES}
    inside, (prompt,) = lm.infilling([(P, S)], InfillSettings("psm", context=context_of(FILES)))
    greedy: dict[str, Any] = {"temperature": 0, "max_bytes": 6}
    expected = inside.sample(prompt, **greedy).bytes
    (one,) = lm.infill_batch([(P, S)], **greedy, **options)
    stream = lm.infill_stream(P, S, **greedy, **options)
    "".join(stream)
    written = [
        lm.infill(P, S, **greedy, **options),
        one,
        Ensemble([lm]).infill(P, S, **greedy, **options),
        stream.completion,
    ]

    assert [done.bytes for done in written] == [expected] * 4
    assert lm.infill(P, S, **greedy, mode="psm").bytes != expected
    likeliest = [
        lm.infill_likeliest(P, S, n=1, max_bytes=2, max_calls=50, **each)[0] for each in (options, {"mode": "psm"})
    ]
    assert likeliest[0].logprob != likeliest[1].logprob
    completer, text = infill_completer(lm, P, S, mode="psm", context=FILES)
    assert text == b"    ret"
    assert completer.sample(text, max_bytes=4).bytes is not None


def test_what_does_not_fit_is_left_out_from_the_farthest_on() -> None:
    """Whole files, the first ones; a warning names them; room for the middle stays."""
    tokenizer = tokenizer_of("starcoder2")
    files = [("far.py", "x" * 60), ("mid.py", "y" * 30), ("near.py", "z" * 30)]
    for size, left in ((1000, 3), (150, 2), (110, 1), (60, 0)):
        lm = ByteLM(Short(tokenizer, size, seed=1))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            prompt = prompt_of(lm, "psm", files, room=8)
        text = b"".join(part for part in prompt if isinstance(part, bytes))
        kept = [name for name, _ in files if name.encode() in text]
        assert kept == [name for name, _ in files[3 - left :]]
        assert lm.overflow(lm.prompt(prompt), b"", tokens=8) == 0
        if left < 3:
            assert told[0].category is LeftOutWarning
            assert "far.py" in str(told[0].message)
            assert "near.py" not in str(told[0].message) or not left
        if left < 2:  # one more would not fit
            more = prompt_of(ByteLM(Short(tokenizer, 1000, seed=1)), "psm", files[3 - left - 1 :], room=8)
            assert lm.overflow(lm.prompt(more), b"", tokens=8) > 0


@pytest.mark.slow  # values of wrong types
@pytest.mark.parametrize(
    ("context", "error", "said"),
    [
        ("a.py", InvalidTypeError, "context must be a list of pairs"),
        ({"a.py": "text"}, InvalidTypeError, "context must be a list of pairs"),
        (["a.py"], InvalidTypeError, "its item 0 is 'a.py'"),
        ([("a.py", "x"), ("b.py",)], InvalidTypeError, "its item 1"),
        ([(b"a.py", "x")], InvalidTypeError, "the name of item 0 of context must be a str"),
        ([("a\nb.py", "x")], InvalidArgumentError, "must be one line"),
        ([("a.py\n", "x")], InvalidArgumentError, "must be one line"),
        ([("a\u2028.py", "x")], InvalidArgumentError, "must be one line"),
        ([("", "x")], InvalidArgumentError, "must be one line that is not empty"),
        ([("a.py", 5)], InvalidTypeError, "the text of 'a.py' in context must be str or bytes"),
        ([("a.py", b"caf\xe9")], InvalidArgumentError, "the text of 'a.py' in context is not UTF-8 at byte 3"),
        ([("a.py", "\ud800")], InvalidArgumentError, "half of a surrogate pair"),
    ],
)
def test_a_context_that_cannot_be(context: Any, error: type[BytelmError], said: str) -> None:
    with pytest.raises(error, match=said):
        lm_of("starcoder2").infill(P, S, context=context)


def test_names_of_the_file_and_the_repository_are_checked() -> None:
    for options in ({"name": "a\nb"}, {"repository": ""}):
        with pytest.raises(InvalidArgumentError, match="must be one line"):
            OtherFiles(FILES, **options)


def test_comments_by_the_ending_of_a_name() -> None:
    names = ("a.py", "b.rs", "c.TS", "d.sql", "e.lisp", "f.tex", "Makefile", ".bashrc", "g.unknown")
    assert [comment_of(name) for name in names] == ["#", "//", "//", "--", ";", "%", "#", "#", "#"]
