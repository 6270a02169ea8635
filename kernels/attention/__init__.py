"""Attention kernels in Triton. Imports nothing: `kernels.switch` decides whether Triton is loaded at all."""
