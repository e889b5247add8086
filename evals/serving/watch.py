"""What is seen of a server from beside its clients: its memory over time, and its own counts.

Rules
    Memory is sampled all the while. Its growth is the median of the slopes between all pairs of samples after the first
    minute (Theil and Sen), with the 95 % interval; a run shorter than twice that has its first half left out.
    *Left behind* is how many requests the server counts as running or waiting beyond those that clients wait for. It is
    read between two looks at the clients, and the larger of these is taken.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from evals.serving.server import Server, ServingError

if TYPE_CHECKING:
    from aiohttp import ClientSession

EVERY: Final = 2.0  # seconds
WARM: Final = 60.0  # seconds that are no part of a growth
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)", re.MULTILINE)


def samples_of(text: str) -> dict[str, float]:
    """The values of a page of /metrics, those with labels summed.

    >>> samples_of('# HELP a b\\na{x="1"} 2\\na{x="2"} 3.5\\nb 1\\n')
    {'a': 5.5, 'b': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found


async def metrics(client: ClientSession) -> dict[str, float]:
    """What the server counts.

    Raises:
        ServingError: It does not say.
    """
    async with client.get("/metrics") as response:
        text = await response.text()
        if response.status != 200:
            raise ServingError(f"/metrics answers {response.status}: {text[:200]}")
    found = samples_of(text)
    if missing := {"bytelm_running", "bytelm_waiting"} - found.keys():
        raise ServingError(f"/metrics lacks {', '.join(sorted(missing))}")
    return found


def active(counts: dict[str, float]) -> int:
    """Requests that run or wait."""
    return int(counts["bytelm_running"] + counts["bytelm_waiting"])


class Watch:
    """Samples of a run, taken every `EVERY` seconds until it is cancelled.

    Attributes:
        memory: Seconds since the start, and bytes.
        left_behind: The most requests that ran for nobody at once.
        gone: Whether the server's process has ended.
        unanswered: How often /metrics did not answer.
    """

    def __init__(self, server: Server, client: ClientSession, asked: Callable[[], int]) -> None:
        self.memory: list[tuple[float, int]] = []
        self.left_behind = 0
        self.gone = False
        self.unanswered = 0
        self._server, self._client, self._asked = server, client, asked

    async def run(self) -> None:
        """Take samples."""
        begun = time.monotonic()
        while True:
            held = self._server.memory()
            self.gone |= not held
            self.memory.append((time.monotonic() - begun, held))
            if not self.gone:
                await self._look()
            await asyncio.sleep(EVERY)

    async def _look(self) -> None:
        from aiohttp import ClientError

        before = self._asked()
        try:
            counted = active(await metrics(self._client))
        except (ServingError, ClientError, TimeoutError, OSError):
            self.unanswered += 1
        else:
            self.left_behind = max(self.left_behind, counted - max(before, self._asked()))

    def told(self) -> dict[str, Any]:
        """Memory for a result."""
        return {"samples": [[round(at, 1), held] for at, held in self.memory], **growth(self.memory)}


def growth(samples: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Memory after the first minute, at the end and at most, in MB, and its growth in MB a minute.

    >>> growth([(60.0 * i, 10**6 * (5 + i)) for i in range(9)])["growth"]
    1.0
    """
    from scipy.stats import theilslopes

    if not samples:
        return {}
    last = samples[-1][0]
    later = [(at, held / 1e6) for at, held in samples if at >= (WARM if last >= 2 * WARM else last / 2) and held]
    times, held = [at / 60 for at, _ in later], [value for _, value in later]
    slope = theilslopes(held, times) if len(set(times)) > 1 else (None,) * 4
    figures = {
        "growth": slope[0],
        "low": slope[2],
        "high": slope[3],
        "largest": max(value for _, value in samples) / 1e6,
    }
    figures |= {"after": held[0] if held else None, "end": held[-1] if held else None}
    return {name: None if value is None else round(float(value), 3) for name, value in figures.items()}
