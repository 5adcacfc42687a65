"""What is published leaves the machine out that it was made on: its name, and where files lie there.

A file is known by its fingerprint; of its path, the base name stays.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from markupsafe import escape

from reports.formats import markdown

HOST = "host"
"""Key of a provenance's hardware that names the machine."""


class Unplaced:
    """Takes absolute paths out of texts and records.

    Args:
        record: provenance.json, in which every path stands that a page or a table may show.
        roots: folders of outputs; what lies in one is named from `outputs` on.
    """

    def __init__(self, record: Any, roots: Iterable[str]):
        roots = sorted(roots, key=len, reverse=True)
        names = dict.fromkeys(roots, "outputs")
        for path in _paths(record):
            if not any(Path(path).is_relative_to(root) for root in roots):
                names[path] = Path(path).name
        self._names = {form: name for path, name in names.items() for form in _forms(path)}
        longest_first = sorted(self._names, key=len, reverse=True)
        # Not within a longer path, a relative one, an address, an element of a page, or a picture in base 64.
        self._pattern = re.compile(rf"(?<![\w./+<-])({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def text(self, text: str) -> str:
        """A text without these paths."""
        return self._pattern.sub(lambda found: self._names[found[0]], text)

    def record(self, value: Any) -> Any:
        """What is written as JSON, without these paths and without the name of a machine."""
        if isinstance(value, dict):
            return {key: self.record(item) for key, item in value.items() if key != HOST}
        if isinstance(value, list | tuple):
            return [self.record(item) for item in value]
        return self.text(value) if isinstance(value, str) else value


def _forms(path: str) -> Iterator[str]:
    """A path as it is, and as a command, a page or Markdown escapes it."""
    for text in (path, shlex.quote(path).removeprefix("'").removesuffix("'")):
        yield from (text, str(escape(text)), markdown(text))


def _paths(value: Any) -> Iterator[str]:
    """The absolute paths in a record: whole texts, and words of commands or what these set a key to."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, str) and "/" in value:
        try:
            words = shlex.split(value)
        except ValueError:  # a sentence with an apostrophe
            words = value.split()
        for word in (value, *words):
            key, _, rest = word.partition("=")
            for part in (word, rest if " " not in key else ""):
                if os.path.isabs(part) and Path(part).name:
                    yield part
