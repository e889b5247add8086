"""A file for the examples of docs/infill.md."""


def with_vat(net: float) -> float:
    """A price with value-added tax."""
    return net * 1.19
