"""The tokenizer itself as the judge of viability: by definition, with nothing taken from the fast path."""
