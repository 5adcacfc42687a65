"""Names that the emoji data set is made of. Standard library only."""

from __future__ import annotations

import re
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

_GENDERED = re.compile(r"\b1f46[89]\b")
_SIGN = re.compile(r"-200d-(2640|2642|27a1)\b")


def concept_family(concept: str) -> str:
    """The concept without gender and direction, so that "man farmer" and "woman farmer" count as one."""
    return _GENDERED.sub("1f9d1", _SIGN.sub("", concept))
