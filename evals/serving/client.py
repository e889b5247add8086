"""One request over HTTP, and what came of it: timed, read by its protocol, and compared with the right answer.

Rules
    An outcome is one of `OUTCOMES`. *complete*: a full answer. *cancelled*: the client went away, as it meant to.
    *refused*: an error in the protocol's own form. *wrong*: a full answer, or a part of one, with another text than the
    right one; a refusal of a good request for any cause but load; an answer to a bad one. *broken*: none of these, such
    as a stream that just stops.
    The time to the first byte is that to the first text of a stream, and to the whole of any other answer.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from evals.serving.protocols import FormError, error_of, parsed, piece_of, whole_text
from evals.serving.requests import Asked

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

OUTCOMES: Final = ("complete", "cancelled", "refused", "wrong", "broken")
BUSY: Final = (429, 503)  # a good request may be refused with these
SILENT: Final = 120.0  # seconds without a byte are a broken answer


@dataclass(slots=True)
class Outcome:
    """What came of a request.

    Attributes:
        asked: The request.
        outcome: One of `OUTCOMES`.
        error: The kind of a refusal, by status and type.
        why: What is wrong or broken.
        text: What was written.
        sent: Bytes of the answer's text.
        first: Seconds to the first text.
        whole: Seconds to the end of the answer.
        status: That of HTTP.
    """

    asked: Asked
    outcome: str = "broken"
    error: str = ""
    why: str = ""
    text: str = ""
    sent: int = 0
    first: float | None = None
    whole: float = 0.0
    status: int = 0

    def line(self) -> dict[str, Any]:
        """For a list of faults."""
        body = self.asked.body
        return {
            "outcome": self.outcome,
            "request": self.asked.name,
            "sent": [self.asked.method, self.asked.path, body if isinstance(body, dict) else repr(body)],
            "status": self.status,
            "why": self.why,
            "text": self.text,
            "seconds": round(self.whole, 3),
        }


def session(url: str, *, most: int = 0) -> ClientSession:
    """A client, to be made within an event loop; ``most``: connections at once, 0 for as many as are needed."""
    from aiohttp import ClientSession, ClientTimeout, TCPConnector

    timeout = ClientTimeout(total=None, sock_read=SILENT, sock_connect=SILENT)
    return ClientSession(url, connector=TCPConnector(limit=most), timeout=timeout)


async def ask(client: ClientSession, asked: Asked, right: str | None = None) -> Outcome:
    """Send a request and read its answer; ``right``: the text that it must have."""
    from aiohttp import ClientError

    found = Outcome(asked)
    body = asked.body if isinstance(asked.body, bytes) else json.dumps(asked.body, ensure_ascii=False).encode()
    started = time.perf_counter()
    try:
        headers = {"Content-Type": "application/json"}
        async with client.request(asked.method, asked.path, data=body or None, headers=headers) as response:
            found.status = response.status
            await _read(response, found, started)
    except FormError as error:
        found.outcome, found.why = "broken", str(error)
    except (ClientError, TimeoutError, OSError) as error:
        found.outcome, found.why = "broken", f"{type(error).__name__}: {error}"
    found.whole = time.perf_counter() - started
    judge(found, right)
    return found


async def _read(response: ClientResponse, found: Outcome, started: float) -> None:
    asked = found.asked
    if response.status != 200:
        body = await response.read()
        found.error = error_of(asked.path, response.status, body)
        found.outcome, found.why = "refused", body.decode(errors="replace")[:500]
        return
    if not asked.streams:
        found.text = whole_text(asked.path, parsed(await response.read())) if not asked.refused else ""
        found.first = time.perf_counter() - started
        found.sent, found.outcome = len(found.text.encode()), "complete"
        return
    pieces = 0
    async for line in response.content:
        piece = piece_of(asked.path, line)
        if piece is None:
            continue
        if piece.text:
            found.first = found.first or time.perf_counter() - started
            found.text += piece.text
            found.sent = len(found.text.encode())
            pieces += 1
        if piece.whole is not None and piece.whole != found.text:
            raise FormError(f"the pieces make {found.text!r}, the stream ends with {piece.whole!r}")
        if piece.ends:
            found.outcome = "complete"
            return
        if asked.pieces is not None and pieces >= asked.pieces:
            found.outcome = "cancelled"
            response.close()
            return
    raise FormError("the stream stops before its end")


def judge(found: Outcome, right: str | None) -> None:
    """Say that an outcome is wrong where it is."""
    asked, text = found.asked, found.text
    if found.outcome == "refused":
        expected = asked.refused or BUSY
        if found.status not in expected:
            found.outcome, found.why = "wrong", f"refused with {found.error}: {found.why}"
    elif found.outcome in ("complete", "cancelled"):
        if asked.refused:
            found.outcome, found.why = "wrong", f"answered, though it must be refused with {asked.refused}"
        elif right is not None and not agrees(text, right, longer=asked.pieces is not None):
            found.outcome, found.why = "wrong", f"alone it is {right!r}"


def agrees(text: str, right: str, *, longer: bool) -> bool:
    """Whether a text is the right one; of a request that was made longer, as far as both go."""
    return text == right or (longer and (text.startswith(right) or right.startswith(text)))
