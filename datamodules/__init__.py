"""Data as memory-mapped token streams, and a small embedded image set.

Importing this package imports neither torch nor lightning.
"""
