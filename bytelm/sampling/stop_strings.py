"""Stop strings, found as bytes are written."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    r"""Looks for stop strings, a byte at a time.

    >>> scanner = StopScanner([b"\n\n"])
    >>> [(scanner.push(byte), scanner.held) for byte in b"a\n\n"]
    [(0, 0), (0, 1), (2, 0)]
    """

    def __init__(self, stops: Sequence[bytes]) -> None:
        self._stops = tuple(stops)
        self.longest = max(map(len, stops), default=0)
        self.held = 0
        self._tail = b""

    def push(self, byte: int) -> int:
        """Take one byte in; the length of the stop string that it completes, or 0."""
        if not self._stops:
            return 0
        tail = (self._tail + bytes([byte]))[-self.longest :]
        found = max((len(stop) for stop in self._stops if tail.endswith(stop)), default=0)
        self.held = 0 if found else next(n for n in range(len(tail), -1, -1) if self._begins(tail[len(tail) - n :]))
        self._tail = tail
        return found

    def _begins(self, tail: bytes) -> bool:
        return not tail or any(stop.startswith(tail) for stop in self._stops)
