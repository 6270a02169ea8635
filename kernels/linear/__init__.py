"""8-bit linear layers. Imports nothing: `kernels.switch` decides whether Triton is loaded at all."""
