"""Diversified Dynamic Routing (Csaba et al. 2022): route clusters and the loss between them.

PyTorch, NumPy and scikit-learn only; nothing in this package imports Detectron2, and
:mod:`~dynamic_routing.divdr.loss` not even scikit-learn. What acts during a training is
:mod:`dynamic_routing.engine.kmeans_hook`.
"""
