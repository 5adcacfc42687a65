"""Measures of image sets: distances of feature distributions, Inception score, memorisation."""
