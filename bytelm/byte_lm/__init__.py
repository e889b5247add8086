"""byte_lm."""
