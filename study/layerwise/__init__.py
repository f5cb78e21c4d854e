"""Spaces in which each group of layers has its own method, bits, rank and adapter.

What is taken of QR-Adaptor (arXiv 2505.03802) and AutoQRA (arXiv 2602.22268), which choose bits and
rank of each layer together: the search is started from the measured importance of the layers
(:mod:`~study.layerwise.sensitivity`, :mod:`~study.layerwise.starts`), it goes on towards two
objectives at once with the study's own searcher, and a suggestion above the memory budget is
repaired (:mod:`~study.layerwise.repair`). Not taken are their importance scores (measured here is
the loss with one group compressed alone), their multi-fidelity screening, and their own genetic and
Bayesian searchers: those of :mod:`study.searchers` stand in their place.
"""
