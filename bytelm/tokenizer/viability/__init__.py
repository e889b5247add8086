"""viability."""
