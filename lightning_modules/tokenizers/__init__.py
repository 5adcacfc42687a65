"""Frozen image autoencoders: pixels <-> tokens or latents."""
