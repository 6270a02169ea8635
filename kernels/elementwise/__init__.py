"""The work between matrix products, in one read and one write each. Imports nothing: `kernels.switch` decides."""
