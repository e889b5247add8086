"""Surprisal by words, by bytes and by minicons, with every difference explained: ``python -m evals.surprisal``.

Method
    Each sentence of sentences.txt is scored word by word. minicons runs in an environment of its own (``--against``),
    on the same model. It is asked in four ways: sums of token surprisals, the same with its correction
    (``bow_correction``), the correction with punctuation marks as words of their own, and sums without a start token,
    which is its default. bytelm is asked in the conventions of ``space=``.
    Two numbers are equal if they differ by at most `TOLERANCE`: both models run in float32. Any other difference is led
    back to named amounts, each computed from its definition (differences.py). What is left over counts as unexplained,
    and the command fails.

Set-up
    python -m venv peer; peer/bin/pip install minicons; python -m evals.surprisal --against peer/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

from bytelm import ByteLM
from bytelm.errors import BytelmError
from bytelm.inference.score import bits
from bytelm.inference.units import WordSpace
from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table
from evals.surprisal.differences import CAUSES, Found, explained
from evals.surprisal.tokens import SETTINGS, Setting, Tokens, spans

HERE: Final = Path(__file__).parent
TOLERANCE: Final = 1e-4  # nats
# With marks apart the units have no white space of their own: regions give it to the word in front.
PAIRS: Final[tuple[tuple[Setting, WordSpace], ...]] = tuple(
    (setting, space)
    for setting in SETTINGS
    for space in get_args(WordSpace)
    if space == "after" or (setting.pattern is None and setting.start)
)


class PeerError(BytelmError):
    """The other environment gave no numbers."""


def sentences(limit: int | None = None) -> list[str]:
    """The sentences, or the first of them."""
    return (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()[:limit]


def asked(python: str, folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """What minicons says in another environment.

    Args:
        python: Its interpreter.
        folder: Of the model.
        texts: The sentences.

    Raises:
        PeerError: It cannot be run, or minicons is not installed there.
    """
    job = {"folder": str(folder), "sentences": list(texts), "asked": [asdict(setting) for setting in SETTINGS]}
    words = [python, "-P", str(HERE / "peer.py")]
    try:
        done = subprocess.run(words, check=False, input=json.dumps(job), capture_output=True, text=True)  # noqa: S603 - the user's own interpreter
    except OSError as error:
        raise PeerError(f"cannot run {python}: {error}; give the Python of an environment that has minicons") from error
    if done.returncode:
        told = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise PeerError(
            f"{python} gave no numbers: {told[0]}. Install minicons there: {python} -m pip install minicons"
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compared(lm: ByteLM, text: str, setting: Setting, spaces: Sequence[WordSpace], said: Any) -> Iterator[list[Found]]:
    """The words of a sentence, explained in each convention.

    Args:
        lm: The byte model.
        text: The sentence.
        setting: How minicons was asked.
        spaces: Our conventions.
        said: Its words with their log-probabilities.

    Raises:
        PeerError: Its words are others.
    """
    words = setting.words(text)
    if [word for word, _ in said] != [text[start:end] for start, end in words]:
        raise PeerError(f"minicons cut {text!r} into other words: {[word for word, _ in said]}")
    prefix: Any = lm.start_prefix() if setting.start else b""
    tokens, given = Tokens.of(lm, text, start=setting.start), spans(lm, text, setting)
    along = [0.0]
    for logprob in lm.byte_logprobs(text, prefix=prefix).tolist():
        along.append(along[-1] + logprob)
    regions = [text[a:b] for a, b in pairwise([*(start for start, _ in words), len(text)])]
    for space in spaces:
        score = lm.score(text, by=regions if setting.pattern else "word", space=space, prefix=prefix)
        ours = [row.logprob for row in score if row.number is not None]
        yield [
            explained(
                text,
                number,
                setting=setting,
                space=space,
                tokens=tokens,
                span=given[number],
                byte_logprobs=along,
                theirs=theirs,
                ours=ours[number],
                tolerance=TOLERANCE,
            )
            for number, (_, theirs) in enumerate(said)
        ]


def summary(words: Sequence[Found]) -> dict[str, Any]:
    """How many words are equal, and what makes the others differ."""
    causes = {}
    for cause in CAUSES:
        if own := [abs(bits(word.amounts[cause])) for word in words if cause in word.amounts]:
            causes[cause] = {"words": len(own), "median_bits": median(own), "largest_bits": max(own)}
    return {
        "words": len(words),
        "equal": sum(abs(word.ours - word.theirs) <= TOLERANCE for word in words),
        "unexplained": sum(not word.explained for word in words),
        "causes": causes,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and print one table for each pair of conventions; 1 when a difference is left without a cause."""
    parser = command("evals.surprisal", __doc__)
    parser.add_argument("-m", "--model", default="demo", help="a folder or a packaged model (default %(default)s)")
    parser.add_argument("--against", metavar="PYTHON", help="the Python of an environment that has minicons")
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N sentences")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of our model (default %(default)s)")
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "limit", "threads")
    if options.read is None and options.against is None:
        parser.error("--against names the Python that has minicons; without it, --read shows an earlier result")
    return answer(
        options,
        lambda: _measure(options, words),
        show=_show,
        failed=lambda result: any(pair["unexplained"] for pair in result["pairs"]),
    )


def _measure(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    from bytelm.packaged import is_packaged, packaged_directory

    set_threads(options.threads)
    texts = sentences(options.limit)
    folder = packaged_directory(options.model) if is_packaged(options.model) else Path(options.model)
    lm = ByteLM.from_pretrained(str(folder), device="cpu", dtype="float32")
    if lm.prompt(b"").context:
        raise PeerError(
            f"the tokenizer of {options.model} adds a start token itself, so minicons would add a second one"
        )
    said = asked(options.against, folder.resolve(), texts)
    found: dict[tuple[Setting, WordSpace], list[Found]] = {pair: [] for pair in PAIRS}
    for number, text in enumerate(tracked(texts, "sentences")):
        for setting in SETTINGS:
            spaces = [space for each, space in PAIRS if each == setting]
            rows = compared(lm, text, setting, spaces, said[setting.name][number])
            for space, own in zip(spaces, rows, strict=True):
                found[setting, space] += own
    return {
        "command": command_of("evals.surprisal", words),
        "machine": machine(options.threads),
        "versions": versions(),
        "peer": said["versions"],
        "tolerance": TOLERANCE,
        "sentences": len(texts),
        "pairs": [
            {"peer": setting.name, "space": space, **summary(own), "each": [_short(word) for word in own]}
            for (setting, space), own in found.items()
        ],
    }


def _short(word: Found) -> list[Any]:
    """A word for the file: itself, their log-probability and ours, and the amounts."""
    amounts = {cause: round(amount, 6) for cause, amount in word.amounts.items()}
    return [word.word, round(word.theirs, 6), round(word.ours, 6), amounts]


def _show(result: dict[str, Any]) -> None:
    for pair in result["pairs"]:
        made = table(
            f"minicons: {pair['peer']}. bytelm: space={pair['space']!r}. Of {pair['words']} words {pair['equal']} are equal"
            f" and {pair['unexplained']} unexplained",
            ["why the others differ", "words", "median bits", "largest bits"],
        )
        for cause, told in pair["causes"].items():
            made.add_row(cause, str(told["words"]), f"{told['median_bits']:.4f}", f"{told['largest_bits']:.4f}")
        console().print(made)
    print_line(f"{result['sentences']} sentences; equal means to {result['tolerance']} nats")


if __name__ == "__main__":
    sys.exit(main())
