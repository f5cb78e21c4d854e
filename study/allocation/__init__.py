"""A file of a given size: which layer gets how many bytes, by named allocators.

What each choice for a group of layers costs (:mod:`~study.allocation.costs`), the exact choice for
all groups whose file fits (:mod:`~study.layerwise.fitting`), its neighbours measured end to end
(:mod:`~study.allocation.refining`), and what becomes of that in a study
(:mod:`~study.allocation.allocations`).
"""
