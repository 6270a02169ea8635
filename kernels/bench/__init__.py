"""Times of the kernels beside what the card could do; asserts none. `python -m kernels.bench`"""
