"""bits_per_byte."""
