"""Derivatives of operators.

As `torch.library.register_autograd`, which reads an operator's schema once per argument in every call that is
differentiated: of the scan's sixteen arguments that takes longer than all else around its kernel.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad


def register(
    library: torch.library.Library,
    operator: OpOverload,
    differentiate: Callable[..., tuple[Tensor | None, ...]],
    save: Callable[[Any, tuple[Any, ...], Any], None] = lambda ctx, inputs, output: None,
) -> None:
    """Make an operator of `library` differentiable.

    Args:
        operator: one without keyword-only arguments, defaults and lists of tensors.
        differentiate: context, gradients of the outputs -> gradients of all arguments, None where there is none.
        save: context, arguments, outputs; keeps what `differentiate` needs.
    """

    class Derivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx, keyset, *arguments):
            output = below(keyset, arguments)
            save(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return None, *differentiate(ctx, *grads)

    def below(keyset, arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    def call(keyset, *arguments):
        if forward_ad._current_level >= 0:  # set while torch.autograd.forward_ad or torch.func.jvp is in use
            _refuse_tangents(arguments)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
            return Derivative.apply(keyset, *arguments)
        return below(keyset, arguments)

    Derivative.__name__ = Derivative.__qualname__ = operator._opname
    library.impl(operator._opname, call, "Autograd", with_keyset=True)


def _refuse_tangents(arguments: tuple[Any, ...]) -> None:
    """An operator would drop them, and forward-mode derivatives be zero."""
    if any(isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in arguments):
        raise RuntimeError(
            "The kernels have no forward-mode derivative (torch.func.jvp, torch.autograd.forward_ad); "
            "use backend='reference' for that."
        )


def refuse_double_backward(ctx, *_):
    """The derivative of an operator that is itself one."""
    raise RuntimeError(
        "The kernels have no second derivative (double backward, create_graph=True); use backend='reference' for that."
    )
