"""Tar shards as img2dataset and webdataset write them: 000000012.jpg, 000000012.txt, 000000012.json, ...

Files of one name belong together, wherever in the shard they stand. A name that comes twice with the same ending is
ambiguous (which caption belongs to which image?), so everything under it is refused.
"""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datamodules.sources.records import (
    IMAGE_SUFFIXES,
    SPLIT_FOLDERS,
    Record,
    Refused,
    Unit,
    decoded_text,
    digest_of,
    find_split,
    texts_of,
    words_of,
)

UNREADABLE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
"""What damaged archives raise, compressed or not, beside OSError."""
MOST_PADDING = tarfile.RECORDSIZE + 2 * tarfile.BLOCKSIZE
"""Zeros at the end of an archive: two blocks that mark it, then up to a whole record."""


def tar_files(folder: Path, split: str) -> list[Path]:
    """The shards of a split: in its folder, named SPLIT-*.tar or SPLIT.tar, also behind another word (cc3m_SPLIT.tar),
    or, for train without a folder, any .tar with no split in its name. SPLIT.tar beside SPLIT/ is what the folder was
    unpacked from."""
    unpacked = find_split(folder, split) is not None
    for name in SPLIT_FOLDERS.get(split, (split,)):
        found = [
            *(folder / name).glob("*.tar"),
            *folder.glob(f"{name}[-_]*.tar"),
            *folder.glob(f"*[-_]{name}[-_]*.tar"),
        ]
        if not found and not unpacked:
            found = [*folder.glob(f"{name}.tar"), *folder.glob(f"*[-_]{name}.tar")]
        if found:
            return sorted(found)
    others = {name for names in SPLIT_FOLDERS.values() for name in names}
    if split != "train" or unpacked:
        return []
    return sorted(path for path in folder.glob("*.tar") if not others.intersection(words_of(path.stem)))


@dataclass
class _Group:
    """The members of one name, by ending."""

    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    twice: str = ""


class TarSource:
    """Every shard is a unit.

    Args:
        files: the shards, in the order of the store.
        classes: number of classes where shards hold .cls files with labels, 0 for captions.
    """

    def __init__(self, files: Sequence[Path], classes: int = 0):
        self.files = files
        self.units = [Unit(file.name) for file in files]
        self.class_names = [str(number) for number in range(classes)]
        self.captioned = not classes
        self.fingerprint = digest_of(f"{file.name} {file.stat().st_size}" for file in files)

    def read(self, index: int) -> Iterator[Record | Refused]:
        """Images in the order in which their names first appear; behind the last one, what damage there is."""
        file = self.files[index]
        try:
            archive = tarfile.open(file)  # noqa: SIM115 (closed below)
        except UNREADABLE:
            yield Refused(file.name, "not a tar archive" if file.stat().st_size else "empty shard")
            return
        with archive:
            groups, damage = _index(archive)
            for name, group in groups.items():
                record = self._record(archive, f"{file.stem}/{name}", group)
                if record is not None:
                    yield record
        if damage:
            yield Refused(file.name, f"the shard is damaged ({damage}); what comes after is lost")

    def _record(self, archive: tarfile.TarFile, key: str, group: _Group) -> Record | Refused | None:
        suffix = next((suffix for suffix in group.members if suffix in IMAGE_SUFFIXES), None)
        if group.twice:
            return Refused(key, f"duplicate key: {group.twice} comes twice, which captions belong to which is unclear")
        if suffix is None:
            if hidden := next((name for name in group.members if PurePosixPath(name).suffix in IMAGE_SUFFIXES), None):
                return Refused(key, f"ambiguous name: what follows its first dot is the ending, here {hidden}")
            if ".tar" in group.members:
                return Refused(key, "an archive within the archive; unpack the outer one")
            if group.members.keys() & {".txt", ".cls"}:
                return Refused(key, "no image under this name")
            return None  # statistics and the like
        content = {name: _read(archive, member) for name, member in group.members.items() if name in (suffix, *TEXTS)}
        if content[suffix] is None or None in content.values():
            return Refused(key, "cut off or damaged within the shard")
        try:
            label, captions = self._annotation({name: value or b"" for name, value in content.items()})
        except (ValueError, AttributeError, TypeError) as error:
            return Refused(key, f"annotation cannot be read ({error})")
        return Record(key, label, captions, content[suffix] or b"")

    def _annotation(self, content: dict[str, bytes]) -> tuple[int, tuple[str, ...]]:
        """Label and captions. Raises ValueError, AttributeError or TypeError for JSON of another form."""
        data = json.loads(content[".json"]) if ".json" in content else {}
        text = decoded_text(content[".txt"]) if ".txt" in content else data.get("caption")
        captions = texts_of(text)
        if not self.class_names:
            return 0, captions
        given = content[".cls"] if ".cls" in content else data.get("label")
        if given is None:
            raise ValueError("no label")
        label = int(given)
        if not 0 <= label < len(self.class_names):
            raise ValueError(f"label {label} of {len(self.class_names)} classes")
        return label, captions


TEXTS = (".txt", ".json", ".cls")


def has_labels(file: Path) -> bool:
    """Whether the first images of a shard come with .cls files."""
    try:
        with tarfile.open(file) as archive:
            for _ in range(8):
                member = archive.next()
                if member is not None and member.name.endswith(".cls"):
                    return True
    except (*UNREADABLE, OSError):
        return False
    return False


def _index(archive: tarfile.TarFile) -> tuple[dict[str, _Group], str]:
    """Members by name, and what is wrong with the archive, if anything."""
    groups: dict[str, _Group] = {}
    try:
        for member in archive:
            if not member.isfile():
                continue
            path = PurePosixPath(member.name)
            if path.name.startswith("."):
                continue  # such as macOS puts beside every file
            stem, dot, ending = path.name.partition(".")
            suffix = f"{dot}{ending}".lower()
            group = groups.setdefault(str(path.parent / stem), _Group())
            if suffix in group.members or (suffix in IMAGE_SUFFIXES and group.members.keys() & IMAGE_SUFFIXES):
                group.twice = suffix
            group.members[suffix] = member
        return groups, _damage_at_end(archive)
    except (*UNREADABLE, OSError) as error:
        return groups, str(error)


def _damage_at_end(archive: tarfile.TarFile) -> str:
    """What is wrong where the members end, if anything: `tarfile` takes whatever is no header for the end.

    The end is one block of zeros or more (writers differ), and nothing but zeros up to the end of the file.
    Raises as reading does.
    """
    stream, start = archive.fileobj, archive.offset
    assert stream is not None
    stream.seek(start)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return f"it breaks off at byte {start + len(block)}, without the block of zeros that ends an archive"
    if any(block):
        return f"no valid header at byte {start}"
    zeros = len(block)
    while block := stream.read(1 << 20):
        if any(block):
            return f"more than zeros after the end of the archive at byte {start}: a lost header, or archives joined"
        zeros += len(block)
    if zeros > MOST_PADDING:
        return f"nothing but zeros from byte {start} on, {zeros} of them: a download that was never completed?"
    return ""


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """The content of a member, None where it cannot be read to its end."""
    try:
        stream = archive.extractfile(member)
        content = stream.read() if stream else b""
    except (*UNREADABLE, OSError):
        return None
    return content if len(content) == member.size else None
