"""Fully sharded training (FSDP2, arXiv 2304.11277).

Of every weight, gradient, average and optimiser state, each process keeps a share; a layer's weights are gathered just
before it computes and dropped after it. They are gathered in float32, since decays and norms must not be rounded; under
bf16 the half-precision copies that autocast makes of matrices stay until the backward, 2 bytes a parameter.

The functions marked "collective" must be called by all processes of a run alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor


def shard(network: nn.Module, mesh: Any) -> None:
    """Split the parameters of a generator among the processes of `mesh`, in place. Collective.

    Every layer (element of an outermost ModuleList) is gathered by itself, what is left around the layers together.
    Outside `forward`, `embed_condition` and `sampling_context` a method finds shares of weights: whoever decodes token
    by token needs a `whole_network`.
    """
    for layer in _layers(network):
        fully_shard(layer, mesh=mesh)
    # The average moves between forward and backward, so nothing may be whole then.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(network, "embed_condition")  # computes with weights, outside `forward`
    # A layer's weights are gathered for its `forward` alone, so nothing of a layer is computed ahead of the steps.
    vars(network)["sampling_context"] = network.embed_condition


def is_sharded(network: nn.Module) -> bool:
    """Whether its parameters are shared out."""
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())


def local(tensor: Tensor) -> Tensor:
    """This process' share of a parameter; the tensor itself if it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor that the processes have shares of. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """`state_dict()` of a network; of a sharded one, whole on the CPU in rank 0 and {} in the others. Collective."""
    if not is_sharded(network):
        return network.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    # its declared type covers optimisers too
    return get_model_state_dict(network, options=options)  # type: ignore[return-value]


def load_whole_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network, sharded or not, the weights that every process holds in full. Collective."""
    if is_sharded(network):
        set_model_state_dict(network, dict(state), options=StateDictOptions(full_state_dict=True))
    else:
        network.load_state_dict(state)


def whole_network(network: nn.Module, build: Callable[[], nn.Module], device: torch.device) -> nn.Module | None:
    """A network that rank 0 can use without the other processes. Collective.

    Args:
        build: makes a network of the same kind.

    Returns:
        `network` itself if it is not sharded; else a copy in rank 0, and None in the others.
    """
    if not is_sharded(network):
        return network
    state = whole_state(network)
    if not state:
        return None
    copy = build()
    copy.load_state_dict(state)
    return copy.to(device).eval().requires_grad_(False)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from _layers(child)
