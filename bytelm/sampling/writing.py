"""A text as it is written, byte by byte, up to where it ends."""

from __future__ import annotations

from bytelm.errors import NotFinishedError
from bytelm.inference.scheduler import JobUsage
from bytelm.sampling.completion import Completion, FinishReason
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.stop_strings import StopScanner
from bytelm.sampling.text_stream import text_of


class Writing:
    """What is written of a completion.

    Args:
        params: When to end.

    Attributes:
        bytes: What is written so far.
        finish_reason: None while it goes on.
        scanner: Looks for stop strings.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.bytes = bytearray()
        self.finish_reason: FinishReason | None = None
        self.scanner = StopScanner(params.stops)
        self._max_bytes = params.max_bytes

    @property
    def full(self) -> bool:
        """Whether there are as many bytes as there may be."""
        return len(self.bytes) >= self._max_bytes

    @property
    def ending(self) -> FinishReason:
        """Why it ended.

        Raises:
            NotFinishedError: It has not.
        """
        if self.finish_reason is None:
            raise NotFinishedError(
                f"the completion has not ended: {len(self.bytes)} bytes are written so far; take all pieces of a "
                "stream first, for one by ''.join(stream)"
            )
        return self.finish_reason

    @property
    def held(self) -> int:
        """How many of the last bytes may turn out to be the beginning of a stop string."""
        return 0 if self.finish_reason else self.scanner.held

    def write(self, byte: int) -> int:
        """Append a byte, and see whether the text ends there; the length of a stop string that was taken off, or 0."""
        self.bytes.append(byte)
        length = self.scanner.push(byte)
        if length:
            del self.bytes[len(self.bytes) - length :]
            self.finish_reason = "stop"
        elif self.full:
            self.finish_reason = "length"
        return length

    def written(self, logprob: float, prompt: bytes, usage: JobUsage) -> Completion:
        """The completion, once it has ended.

        Args:
            logprob: Of it.
            prompt: What stands before it.
            usage: What it cost.
        """
        written = bytes(self.bytes)
        return Completion(text_of(written, prompt), written, logprob, self.ending, usage)
