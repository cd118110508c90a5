"""Search for the reduction of a model that agrees best with the dense model, on training images.

    python -m tcvit_jax.search --checkpoint runs/digits_dense --macs-fraction 0.6

A *candidate* is a reducer with a schedule family, at one budget. Successive halving measures all candidates on a few
images and the best of them on more. Measurements are stored as soon as they are available, so that an interrupted
search can be resumed. The best candidate becomes a preset.
"""
