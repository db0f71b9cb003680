"""Fine-tune speech and music models on the Hugging Face stack.

`import hfaudio.auto` makes the models and processors of this package known to transformers; this
module itself imports nothing, so that `hfaudio --help` answers at once.
"""

__version__ = "0.1.0"
