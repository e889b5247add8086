"""No progress bars of transformers and its hub, for as long as bytelm loads something for a caller who wants none.

Rules
    Both have one switch for the whole process. It is put back as it was, and two threads that load take turns, so that
    neither takes the other's silence for what the caller had set.
    Whoever sets ``HF_HUB_DISABLE_PROGRESS_BARS=0`` in the environment has asked for bars, and has them.

Does not
    Silence the bar of a GGUF file's conversion, for which transformers has no switch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from huggingface_hub import constants
from huggingface_hub.utils.tqdm import progress_bar_states
from transformers.utils import logging

_lock: Final = threading.RLock()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No bars inside; afterwards the switches are as they were."""
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    with _lock:
        shown, hub = logging.is_progress_bar_enabled(), dict(progress_bar_states)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()
            progress_bar_states.clear()  # which had changed too
            progress_bar_states.update(hub)
