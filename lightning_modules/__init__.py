"""Generators, their LightningModules, and what they are made of."""
