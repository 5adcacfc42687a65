"""`nn.ModuleList` with a type parameter: `self.layers: ModuleList[Layer] = ModuleList(..)`.

For type checkers alone, which take an item of torch's own for a bare `nn.Module`. At run time it is torch's own.
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
