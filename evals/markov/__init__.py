"""markov."""
