"""The command `bytelm`: what the library does, from a shell.

This chapter decides what a command reads, prints and returns, and how a file is edited at a cursor. It takes arguments,
files and standard input, byte for byte. It gives results on standard output and everything else on standard error, with
an exit code. It never computes a probability: each command asks the library. A file that it edits is replaced whole or
left as it was.
"""
