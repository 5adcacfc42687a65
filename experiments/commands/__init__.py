"""The sub-commands of `ablate`."""
