"""One run, end to end: configuration, run store, training, evaluation and the `ablate` command."""
