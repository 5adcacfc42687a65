"""Names that the emoji data set is made of. Standard library only."""

from __future__ import annotations

from pathlib import Path

CATEGORIES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
"""Class names in label order (Unicode's own order of emoji groups, without its 5 "Component" entries)."""

STYLES = ("twemoji", "noto")
EMOJI_FILE = Path(__file__).with_name("emoji32.npz")
