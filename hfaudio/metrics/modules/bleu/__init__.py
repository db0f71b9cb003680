"""BLEU in the form of an `evaluate` module."""
