"""Tasks that measure a model and its features: classification, neighbors, linear probe, retrieval, dense maps.

A *task* computes the *outputs* of a model for all images, and from them its *scores*: the value of each metric for each
example, so that two models can be compared on the same examples. The dense model's outputs are the reference of tasks
that also measure how far reduction changes the features.
"""
