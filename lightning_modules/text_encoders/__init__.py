"""Frozen text encoders: captions -> features."""
