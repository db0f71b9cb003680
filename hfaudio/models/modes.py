"""A model's mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off meanwhile; afterwards, also after an error, the model trains again if it did."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
