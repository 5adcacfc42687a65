"""`nn.ModuleList` that says of what: `self.layers: ModuleList[Layer] = ModuleList(..)`.

torch's own is a list of `nn.Module`, whose attributes might be anything. Outside of type checks it is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from torch import nn

Item = TypeVar("Item", bound=nn.Module)

if TYPE_CHECKING:

    class ModuleList(nn.ModuleList, Generic[Item]):
        """See the module."""

        @overload
        def __getitem__(self, index: slice) -> ModuleList[Item]: ...
        @overload
        def __getitem__(self, index: int) -> Item: ...
        def __getitem__(self, index: int | slice) -> Item | ModuleList[Item]: ...

        def __iter__(self) -> Iterator[Item]: ...

else:
    ModuleList = nn.ModuleList
