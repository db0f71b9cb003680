"""chrF in the form of an `evaluate` module."""
