"""Tasks of lm-eval on data that lie on this machine: README.md."""
