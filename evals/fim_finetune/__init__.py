"""Teaching a small base model to fill in the middle.

This chapter decides what is taught: which functions, where they are cut, in which of the two orders, on which tokens
the loss is, and which adapter of a run is the best. It takes installed packages whose licence permits it, a base model
and the files of a benchmark that training must not see. It gives a low-rank adapter in peft's layout, which
`bytelm.packaged` can merge into its base, and a manifest by which it can be made again. It never trains on what it
measures on, never writes over a run, and leaves the loop, the optimizer, the schedule and the checkpoints to
transformers' Trainer.
"""
