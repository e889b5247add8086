"""How many draws a test of a law makes."""

from __future__ import annotations

import os


def draws_of(count: int) -> int:
    """All of them where ``BYTELM_ALL_DRAWS`` is set (``tox -e draws``), and a tenth elsewhere: all take half an hour."""
    return count if os.environ.get("BYTELM_ALL_DRAWS") else count // 10
