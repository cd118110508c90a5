"""Every method on the same weights, the same code and the same clock.

    python -m tcvit_jax.benchmark --checkpoint runs/digits_dense --reducers gtp,tcvit,tome,evit --share 0.75,0.5

A *comparison* is what is compared: the checkpoints, the reducers, the budgets. What is measured of it comes in *units*
(the accuracy of one method at one budget; the times of all methods at one budget, in turns), each of which is kept in
the output directory as soon as it is there, so that an interrupted benchmark continues. *Rows* put them together.
"""
