"""What every configuration of a data set tells. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar


class DataConfig:
    """Base of the configurations; by itself one of data that come with the suite."""

    has_images: ClassVar[bool] = False
    """Samples can be measured against its own images; those of other data sets do not travel with their tokens."""
    possible: ClassVar[tuple[str, ...]] = ("class", "caption")
    """What `condition` may be."""
    folder_key: ClassVar[str] = ""
    """The key that names the folder it reads; "" where it reads none."""
    name: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """The folder it reads; "" where none is named, or it reads none."""
        return str(getattr(self, self.folder_key)) if self.folder_key else ""

    def lacks(self) -> str:
        """What is to be named before it can be read, such as "data.root=FOLDER, the stores that .."; "" if nothing."""
        return f"data.{self.folder_key}=FOLDER, {self._contents()}" if self.folder_key and not self.folder else ""

    def forget_lost_folder(self) -> None:
        """Do without a folder that is gone: what was filled in of it stays as it is."""
        if self.folder and not Path(self.folder).is_dir():
            setattr(self, self.folder_key, "")

    def fit(self, tokenizer: Any) -> None:
        """Take from the tokenizer's configuration what the data follow it in."""

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises ValueError where the data are not made for this tokenizer (its configuration)."""

    def images(self) -> tuple[str, str]:
        """How `ablate reference` names the kind of its images, and their folder ("IMAGES" if that is not known)."""
        return self.name, "IMAGES"

    def _contents(self) -> str:
        """What its folder holds, in words."""
        return ""
