"""Spaces in which each group of layers has its own method, bits, rank and adapter.

What is taken of QR-Adaptor (arXiv 2505.03802) and AutoQRA (arXiv 2602.22268), which choose bits and
rank of each layer together: the search is started from the measured importance of the layers
(:mod:`~study.layerwise.sensitivity`, :mod:`~study.layerwise.starts`), it goes on towards two
objectives at once with the study's own searcher, and a suggestion above the memory budget is
repaired (:mod:`~study.layerwise.repair`). Measured here is the loss with one group compressed
alone, not an entropy of its outputs; their own genetic and Bayesian searchers are not taken: the
study's ``nsga2`` or ``tpe`` stand in their place.
"""
