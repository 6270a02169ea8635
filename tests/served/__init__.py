"""A farm without its cluster: the real API on a real database and store, a machine played by the test."""
