"""Texts on coloured ground in a terminal, and nothing of it elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from bytelm import ByteLM, TableLM
from bytelm.cli.colours import heat, member_colour, print_driven, print_surprisal
from tests.support.tiny import default_tokenizer

TEXT = "the naïve 日本 fox\n\treturns to a very long line that a narrow terminal has to fold"
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


def console(*, width: int = 40, colours: bool = True) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    system = "truecolor" if colours else None
    return Console(file=file, width=width, force_terminal=True, color_system=system, highlight=False), file  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    return ByteLM(TableLM(default_tokenizer(), seed=5, order=2))


@pytest.mark.parametrize("width", [40, 100])
def test_each_unit_has_the_colour_of_its_surprisal(width: int, lm: ByteLM) -> None:
    """All of the text, in its order, each word on its own ground; no line is wider than the terminal."""
    out, file = console(width=width)
    score = lm.score(TEXT, by="word")

    print_surprisal(score, name="a.txt", console=out)

    printed = file.getvalue()
    plain = ESCAPE.sub("", printed)
    assert max(map(cell_len, plain.splitlines())) <= width
    assert plain.startswith("a.txt\n")
    assert re.sub(r"\s", "", plain.removeprefix("a.txt")) == re.sub(
        r"[ ]", "", TEXT.replace("\n", "\\n").replace("\t", "\\t")
    )
    for row in score:
        numbers = ";".join(re.findall(r"\d+", heat(row.surprisal_bits)))
        assert f"48;2;{numbers}m{row.text.split()[0][:3]}" in printed


def test_each_byte_has_the_colour_of_its_driver() -> None:
    """Bytes of one member that stand together are shown as text; a character that two wrote, as escapes."""
    out, file = console()

    print_driven("aé!".encode(), [0, 0, 1, 1], console=out)

    grounds = [tuple(int(member_colour(i)[at : at + 2], 16) for at in (1, 3, 5)) for i in (0, 1)]
    first, second = (";".join(map(str, ground)) for ground in grounds)
    assert f"48;2;{first}ma\\xc3" in file.getvalue()
    assert f"48;2;{second}m\\xa9!" in file.getvalue()


def test_without_colours_nothing_is_printed(lm: ByteLM) -> None:
    for out, file in (console(colours=False), (Console(file=(plain := io.StringIO())), plain)):
        print_surprisal(lm.score("the fox"), console=out)
        print_driven(b"ab", [0, 1], console=out)
        assert file.getvalue() == ""
