"""One torch-free configuration file per generator."""
