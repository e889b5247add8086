"""Measure the sentences of README.md, CONTRIBUTING.md and docs/: how long they are, and which are too long.

Rules:
    Prose is what is left of a page without front matter, comments, code, tables, headings and images. A list item is a
    block of its own, so its end is a sentence's end. Inline code is one word. A word holds a letter or a digit.
    The pages that scripts/cli_docs.py writes (docs/cli*.md) hold no prose of ours: only their length is measured.

    python scripts/sentences.py [PAGE…]           median, longest, and the sentences over 35 words with their lines
    python scripts/sentences.py --check [PAGE…]   fail on a median over 18, a sentence over 35, a page over 250 lines
"""

from __future__ import annotations

import argparse
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEDIAN, LONGEST, LINES = 18, 35, 250
# Of equal length, so that a place in the masked text is one in the page: code is a word, a link's target is nothing.
CODE, NOTHING = "\x01", "\x02"
FENCE = re.compile(r" *(`{3,}|~{3,})")
ITEM = re.compile(r" *(?:[-*+]|\d+[.)]) +")
NO_PROSE = re.compile(r" *(?:\||#{1,6} |!!!|\?\?\?|:::|=== |!\[|<[/!a-zA-Z]|-{3,}$)")
MASKED = (
    (re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL), CODE),
    (re.compile(r"https?://[^\s)>]+"), CODE),
    (re.compile(r"\]\([^()]*(?:\([^()]*\)[^()]*)*\)|\]\[[^\]]*\]|\{[:.#][^}]*\}"), NOTHING),
    (re.compile(r"<!--.*?-->", re.DOTALL), NOTHING),
)
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|cf|vs|al)\.$")
END = re.compile(r"[.!?][\"')\]*_”’\x02]*(?=\s)")


@dataclass(frozen=True)
class Sentence:
    """A sentence, the line that it begins in (from 1), and its number of words."""

    text: str
    line: int
    words: int


def blocks(page: str) -> list[tuple[int, str]]:
    """The paragraphs and list items of a page, each with its first line."""
    page = re.sub(r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), page, flags=re.DOTALL)
    found: list[tuple[int, list[str]]] = []
    fence, listed, inside, going = "", False, False, False
    lines = page.split("\n")
    front = lines.index("---", 1) if lines[0] == "---" and "---" in lines[1:] else -1
    for number, line in enumerate(lines, 1):
        if number <= front + 1:
            continue
        if match := FENCE.match(line):
            if not fence:
                fence = match[1]
            elif match[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
            going = False
        elif fence or not line.strip():
            going = False
        elif NO_PROSE.match(line):
            # What an admonition holds is prose, what a directive (:::) is given is not.
            going, listed, inside = False, False, line.lstrip().startswith(("!!!", "???"))
        elif match := ITEM.match(line):
            listed = going = True
            found.append((number, [line[match.end() :]]))
        elif line.startswith("    ") and not (going or listed or inside):
            continue  # code by its indentation
        elif going:
            found[-1][1].append(line)
        else:
            listed, going = listed and line.startswith(" "), True
            found.append((number, [line]))
    return [(number, re.sub(r"^ *(?:> ?)+", "", "\n".join(texts), flags=re.MULTILINE)) for number, texts in found]


def sentences(page: str) -> list[Sentence]:
    """The sentences of a page in their order.

    >>> [(s.text, s.line, s.words) for s in sentences("# One\\n\\nA `b c` d, see\\n[e](f.md). It ends e.g. here.\\n")]
    [('A `b c` d, see [e](f.md).', 3, 5), ('It ends e.g. here.', 4, 4)]
    """
    found = []
    for number, text in blocks(page):
        masked = text
        for pattern, mark in MASKED:
            for match in [*pattern.finditer(masked)]:
                masked = masked[: match.start()] + mark * len(match[0]) + masked[match.end() :]
        begin = 0
        ends = [match.end() for match in END.finditer(masked) if not ABBREVIATION.search(masked[: match.start() + 1])]
        for end in [*ends, len(masked)]:
            words = [word for word in masked[begin:end].split() if CODE in word or re.search(r"[^\W_]", word)]
            if words:
                begin += len(masked[begin:end]) - len(masked[begin:end].lstrip())
                line = number + text.count("\n", 0, begin)
                found.append(Sentence(" ".join(text[begin:end].split()), line, len(words)))
            begin = end
    return found


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md where there is one, and the pages of docs/."""
    heads = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    return [*(head for head in heads if head.exists()), *sorted((ROOT / "docs").glob("*.md"))]


def faults(path: Path) -> list[str]:
    """What is wrong with a page, a line each."""
    page = path.read_text(encoding="utf-8")
    length = page.count("\n")
    found = [f"{path}: {length} lines, {LINES} at most"] if length > LINES else []
    if path.name.startswith("cli") or not (all_of := sentences(page)):
        return found
    median = statistics.median(sentence.words for sentence in all_of)
    found += [f"{path}: the median sentence has {median:g} words, {MEDIAN} at most"] if median > MEDIAN else []
    return found + [f"{path}:{s.line}: {s.words} words: {s.text}" for s in all_of if s.words > LONGEST]


def main() -> None:
    """Print the measures, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="print what is wrong alone, and fail if anything is")
    parser.add_argument("pages", nargs="*", type=Path, help="pages, instead of all")
    arguments = parser.parse_args()
    paths = arguments.pages or pages()
    wrong = [line for path in paths for line in faults(path)]
    if not arguments.check:
        print("median  longest  lines  page")
        for path in paths:
            page = path.read_text(encoding="utf-8")
            words = [sentence.words for sentence in sentences(page)] or [0]
            print(f"{statistics.median(words):6g}  {max(words):7}  {page.count(chr(10)):5}  {path.name}")
    print("\n".join(wrong) if wrong else "all within the limits")
    raise SystemExit(1 if wrong and arguments.check else 0)


if __name__ == "__main__":
    main()
