"""A compiled model as it was before ``torch.compile``, for as long as bytelm runs it.

Theory
    Code is compiled for the shapes and the Python values that it has seen. Every pass here has a shape of its own, and
    a cache that knows which slots it reads: nearly every pass would be compiled anew, which takes minutes and ends at
    torch's limit of recompilations (with ``fullgraph=True`` by an error). Without it the rows are those of the model
    itself, to the last bit.

Rules
    torch has one stance for the whole process. The first of several threads to enter changes it, and the last one to
    leave puts it back. Meanwhile other compiled code of the process runs uncompiled too, which changes no result.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import torch

_lock: Final = threading.Lock()
_stance: Final = ExitStack()  # holds the stance while anyone is inside
_inside = 0


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Ignore ``torch.compile``. Threads may enter at the same time."""
    global _inside  # noqa: PLW0603 - so is torch's stance
    with _lock:
        if not _inside:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _stance.close()
