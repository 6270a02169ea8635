"""Triton kernels and their torch references. Imports nothing: other packages probe for this name."""
