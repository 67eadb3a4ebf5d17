"""Controlled studies: small experiments whose true answer is known.

PyTorch, NumPy and scikit-learn only. Nothing else in the package imports this.
"""
