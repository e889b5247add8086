"""What the one who runs a server decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bytelm.arguments import integer
from bytelm.errors import InvalidArgumentError
from bytelm.fim import Mode
from bytelm.sampling.drafter import Drafter, drafter_of
from bytelm.serving.session import MAX_RUNNING, MAX_WAITING

BYTES_A_TOKEN: Final = 8  # more than texts have on average, but for those of white space alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the one who runs a server decides.

    Attributes:
        name: What the server calls its model. The name that a request gives is not looked at.
        api_keys: One of them must be given with each request; none: nothing is asked.
        cors_origins: Web pages of these origins may read answers; ``"*"`` is all.
        loopback: Whether it listens on this machine alone: then a page that asks must come from it by name too, so that
            no page gets here by a name that it has made to mean this machine.
        max_body: Bytes of a request, at most.
        max_prompt: Bytes of a prompt, at most; None: `BYTES_A_TOKEN` for each token of the context. To find that a text
            does not fit takes time in which others wait.
        max_bytes: New bytes of a completion, at most.
        default_bytes: New bytes where a request does not say how many.
        max_n: Completions of a request, at most.
        max_stops: Stop strings of a request, at most.
        max_particles: Particles of a completion, at most. Each of them takes a row for a byte.
        max_budget: Attempts at a completion with ``conditioning`` "exact", at most. What they find out is kept in
            memory until it is drawn.
        max_running: Completions that run together, at most.
        max_waiting: Completions that wait for their turn, at most; beyond, a request is refused with 429.
        seconds: What a completion may take, at most; None: as long as it takes.
        body_seconds: How long a client may take to send a request.
        sentinel_text: Whether a prompt that is written in a known format of filling in the middle is read as its parts.
        mode: How holes are put to the model (`ByteModel.infill`).
        draft: What drafts bytes for the model to check, as `SamplingParams` takes it. Whole texts (``conditioning``
            "exact", ``particles``) are drawn without it.
        log_prompts: Whether requests are logged with their texts.

    Raises:
        InvalidArgumentError: A number below 1, or a drafter that is none.
    """

    name: str = "bytelm"
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    loopback: bool = False
    max_body: int = 4 * 2**20
    max_prompt: int | None = None
    max_bytes: int = 4096
    default_bytes: int = 256
    max_n: int = 16
    max_stops: int = 64
    max_particles: int = 64
    max_budget: int = 1000
    max_running: int = MAX_RUNNING
    max_waiting: int = MAX_WAITING
    seconds: float | None = None
    body_seconds: float = 30.0
    sentinel_text: bool = True
    mode: Mode = "auto"
    draft: Drafter | Literal["lookup"] | None = None
    log_prompts: bool = False

    def __post_init__(self) -> None:
        counts = ("max_body", "max_prompt", "max_bytes", "default_bytes", "max_n", "max_running", "max_waiting")
        for name in (*counts, "max_particles", "max_budget"):
            if getattr(self, name) is not None and integer(name, getattr(self, name)) < 1:
                raise InvalidArgumentError(f"{name} must be at least 1; got {getattr(self, name)}")
        drafter_of(self.draft)
        if any(not key for key in self.api_keys):
            raise InvalidArgumentError("an API key is empty: anybody could give it")
