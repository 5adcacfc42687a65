"""Captions as found in the wild to clean text: one line, no control characters, valid Unicode, nothing else changed."""

from __future__ import annotations

import unicodedata

LONG = 1000
"""Words beyond which a caption is counted as unusual. It is kept whole: how much of it counts, text encoders decide."""


def clean_caption(text: str) -> tuple[str, list[str]]:
    """The caption, empty if nothing is left of it, and what was unusual about it."""
    notes = []
    valid = text.encode("utf-8", errors="replace").decode("utf-8")  # lone surrogates cannot be stored
    if valid != text or "\ufffd" in text:
        notes.append("caption with invalid Unicode")
    if any(unicodedata.category(letter) == "Cc" and letter not in "\t\n\r" for letter in valid):
        notes.append("caption with control characters")
    spaced = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in valid)
    words = spaced.split()
    if len(words) > LONG:
        notes.append(f"caption of more than {LONG} words")
    return " ".join(words), notes
