"""Word error rate in the form of an `evaluate` module."""
