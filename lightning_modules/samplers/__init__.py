"""Samplers: from a generator and conditions to tokens or latents."""
