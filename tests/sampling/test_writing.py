"""Where a text ends that is written byte by byte."""

from __future__ import annotations

import pytest

from bytelm.errors import NotFinishedError
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.writing import Writing


@pytest.mark.parametrize(
    ("fresh", "stops", "max_bytes", "expected"),
    [
        (b"abc", [], 5, (b"abc", None)),
        (b"abc", [], 3, (b"abc", "length")),
        (b"abc", [], 2, (b"ab", "length")),
        (b"abc", [b"bc"], 9, (b"a", "stop")),
        (b"abc", [b"c", b"b"], 9, (b"a", "stop")),
        (b"abc", [b"bc"], 2, (b"ab", "length")),
        (b"abc", [b"abc", b"b"], 9, (b"a", "stop")),
        (b"a\r\n", [b"\n", b"\r\n"], 9, (b"a", "stop")),
        (b"", [b"x"], 1, (b"", None)),
    ],
)
def test_where_a_completion_ends(
    fresh: bytes, stops: list[bytes], max_bytes: int, expected: tuple[bytes, str | None]
) -> None:
    """The stop string that is complete first ends a completion if it fits within max_bytes; else its length does."""
    writing = Writing(SamplingParams(stop=stops, max_bytes=max_bytes))
    for byte in fresh:
        if writing.finish_reason is None:
            writing.write(byte)

    assert (bytes(writing.bytes), writing.finish_reason) == expected


def test_a_text_that_goes_on_has_no_end() -> None:
    """It is no completion yet."""
    with pytest.raises(NotFinishedError, match="0 bytes are written so far"):
        _ = Writing(SamplingParams()).ending
