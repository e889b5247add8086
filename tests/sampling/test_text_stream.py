"""Stop strings and whole characters, a byte at a time."""

from __future__ import annotations

import random

import pytest

from bytelm.sampling.stop_strings import StopScanner
from bytelm.sampling.text_stream import TextStream, text_of


def first_stop(data: bytes, stops: list[bytes]) -> tuple[int, int] | None:
    """By definition: the first byte at which a stop string ends, and the longest that ends there."""
    for end in range(1, len(data) + 1):
        lengths = [len(stop) for stop in stops if data[:end].endswith(stop)]
        if lengths:
            return end, max(lengths)
    return None


def test_scanner_finds_the_first_stop_to_end() -> None:
    """On random bytes and stop strings over two letters the scanner agrees with looking at every prefix."""
    rng = random.Random(3)
    for _ in range(400):
        stops = [bytes(rng.choices(b"ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        data = bytes(rng.choices(b"ab", k=12))
        scanner = StopScanner(stops)
        found = None
        for end, byte in enumerate(data, start=1):
            if length := scanner.push(byte):
                found = (end, length)
                break
            # Held is what might begin a stop: by definition, the longest such end of the data.
            tails = [n for n in range(end + 1) if any(s.startswith(data[end - n : end]) for s in stops if len(s) > n)]
            assert max(tails) == scanner.held

        assert first_stop(data, stops) == found


def test_pieces_are_whole_characters_and_join_to_the_text() -> None:
    """However the bytes are cut, no piece holds half a character, and all pieces make the text."""
    rng = random.Random(5)
    text = "aé日🙂\u0301z"
    data = text.encode()
    for _ in range(50):
        stream = TextStream()
        cuts = sorted(rng.sample(range(len(data) + 1), 4))
        pieces = [stream.show(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

        assert text == "".join(pieces)


@pytest.mark.parametrize("cut", range(1, len("aé日🙂".encode())))
def test_a_character_begun_in_the_prefix_is_completed(cut: int) -> None:
    """Where the prefix ends inside a character, the text begins with that character."""
    data = "aé日🙂".encode()
    whole = data[:cut].decode("utf-8", errors="ignore")

    assert whole + text_of(data[cut:], data[:cut]) == "aé日🙂"


def test_bytes_that_are_no_text_are_replaced() -> None:
    """A lone byte, and a character that something else breaks off, show as U+FFFD."""
    assert text_of(b"a\xffb") == "a\ufffdb"
    assert text_of(b"a\xff") == "a\ufffd"
    assert text_of("日".encode()[:2] + b"a") == "\ufffda"
    assert text_of(b"x", b"\xe2\x82") == "\ufffdx"  # begun in the prefix, broken off by x
    assert text_of(b"x", b"\xff") == "x"  # nothing that a byte could complete


@pytest.mark.parametrize("character", ["é", "日", "🙂"])
def test_a_character_that_is_not_complete_is_no_part_of_the_text(character: str) -> None:
    """What begins a character at the end is held back, in whatever follows and wherever it began."""
    data = character.encode()
    for cut in range(1, len(data)):
        assert text_of(b"a" + data[:cut]) == "a"
        assert text_of(data[1:cut], data[:1]) == ""
        assert text_of(b"a\xff" + data[:cut]) == "a\ufffd"
