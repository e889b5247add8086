"""What a result says about where it was made: the versions of the libraries, the processor. It names no path."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any, Final

LIBRARIES: Final = ("torch", "transformers", "tokenizers", "numpy")


def versions(*more: str, python: bool = False) -> dict[str, str]:
    """The versions of `LIBRARIES`, of some more, and of Python itself where that is asked for."""
    return ({"python": platform.python_version()} if python else {}) | {
        name: version(name) for name in (*LIBRARIES, *more)
    }


def processor() -> str:
    """The processor, as far as the system tells."""
    return platform.processor() or platform.machine()


def machine(threads: int) -> dict[str, Any]:
    """The processor, its cores, and how many threads a model had."""
    return {"cpu": processor(), "cores": os.cpu_count(), "threads": threads}
