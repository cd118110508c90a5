"""Benchmark of reducers with the same weights, code and hardware.

    python -m tcvit_jax.benchmark --checkpoint runs/digits_dense --reducers gtp,tcvit,tome,evit --macs-fraction 0.75,0.5

A *comparison* consists of checkpoints, reducers and budgets. Its *measurements*, such as the accuracy of one method at
one budget or the interleaved run times of all methods at one budget, are stored in the output directory as soon as they
are available, so that an interrupted benchmark can be resumed. The *rows* of the results combine them.
"""
