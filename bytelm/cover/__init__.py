"""The cover of a byte prefix: every viable token sequence that spells it, as a handful of boundary nodes.

This chapter decides which token sequences a prefix can be the beginning of. It takes what a caller gives as a prefix
(prefix.py, chat.py) and a `Viability`. It gives a `Cover` (cover.py) that is advanced byte by byte; that of a long text
begins at its last sure cut (sure_cuts.py, cover_cache.py). The chapters above know it by the protocols of nodes.py. It
never sees a model: the probabilities that it adds up are handed to it.
"""
