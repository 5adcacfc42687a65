"""One run, end to end: configuration, run store, training, evaluation and the `ablate` command."""

__version__ = "0.1.0"
