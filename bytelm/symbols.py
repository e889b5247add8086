"""The 257 symbols that a byte model tells apart: the 256 bytes, and the end of text."""

from __future__ import annotations

from typing import Final

SYMBOLS: Final = 257  # the 256 bytes and end of text


EOT: Final = 256


TIE: Final = 1e-12
