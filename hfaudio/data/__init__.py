"""Examples on their way to a model: what a dataset is and where it is found, how it is streamed, bucketed and padded,
and the small datasets and models that the package brings along."""
