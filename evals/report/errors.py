"""What an evaluation raises when its data are missing or wrong."""

from __future__ import annotations

from bytelm.errors import BytelmError


class DataError(BytelmError):
    """The data of an evaluation are missing, unreadable, or not the published ones."""
