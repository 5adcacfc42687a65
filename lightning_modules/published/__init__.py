"""Layouts of published checkpoints, translated key by key into this suite's."""
