"""Defines operators of `torch.library`: opaque to torch.compile, known to autograd, fake tensors and FLOP counters.

As `torch.library.custom_op` and `register_autograd`, which cost more around a small kernel than the kernel takes: they
read an operator's schema once per argument in every call, and each call goes through PyTorch's dispatcher twice, back
into Python both times. Where nobody watches the dispatcher, the operators here go past it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad, profiler

_library = torch.library.Library("ablate", "FRAGMENT")
_PLAIN = {Tensor, torch.nn.Parameter}


def refuse_double_backward(ctx, *_):
    """The derivative of an operator that is itself one."""
    raise RuntimeError(
        "The kernels have no second derivative (double backward, create_graph=True); use backend='reference' for that."
    )


def define(
    schema: str,
    compute: Callable[..., Any],
    fake: Callable[..., Any],
    differentiate: Callable[..., tuple[Tensor | None, ...]] = refuse_double_backward,
    save: Callable[[Any, tuple[Any, ...], Any], None] = lambda ctx, inputs, output: None,
) -> Callable[..., Any]:
    """Define `torch.ops.ablate.<name>`.

    Args:
        schema: "name(arguments) -> outputs", without keyword-only arguments, defaults and lists of tensors.
        compute: the operator on real tensors.
        fake: its outputs' shapes, dtypes and devices, uninitialised.
        differentiate: context, gradients of the outputs -> gradients of all arguments, None where there is none.
        save: context, arguments, outputs; keeps what `differentiate` needs.

    Returns:
        What calls it, with positional arguments alone.
    """
    name = schema.partition("(")[0]
    _library.define(schema)
    operator = getattr(torch.ops.ablate, name).default

    class Derivative(torch.autograd.Function):
        """Its first argument is the dispatcher's key set; None past the dispatcher."""

        @staticmethod
        def forward(ctx, keyset, *arguments):
            output = compute(*arguments) if keyset is None else below(keyset, arguments)
            save(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return None, *differentiate(ctx, *grads)

    def below(keyset, arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    def dispatched(keyset, *arguments):
        if forward_ad._current_level >= 0:  # set while torch.autograd.forward_ad or torch.func.jvp is in use
            _refuse_tangents(arguments)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
            return Derivative.apply(keyset, *arguments)
        return below(keyset, arguments)

    def call(*arguments):
        if torch.compiler.is_compiling() or _watched():
            return operator(*arguments)
        differentiated = False
        for argument in arguments:
            if isinstance(argument, Tensor):
                if type(argument) not in _PLAIN or argument.is_meta:
                    return operator(*arguments)
                differentiated = differentiated or argument.requires_grad
        if differentiated and torch.is_grad_enabled():
            return Derivative.apply(None, *arguments)
        return compute(*arguments)

    Derivative.__name__ = Derivative.__qualname__ = name
    _library.impl(name, compute, "CompositeExplicitAutograd")
    _library.impl(name, dispatched, "Autograd", with_keyset=True)
    torch.library.register_fake(f"ablate::{name}", fake, lib=_library)
    return call


def _watched() -> bool:
    """Whether a mode, a transform, a tracer or a profiler is in use that an operator has to pass."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or profiler._is_profiler_enabled
        or forward_ad._current_level >= 0
        or _functorch.maybe_current_level() is not None
        or torch._C._is_tracing()
    )


def _refuse_tangents(arguments: tuple[Any, ...]) -> None:
    """An operator would drop them, and forward-mode derivatives be zero."""
    if any(isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in arguments):
        raise RuntimeError(
            "The kernels have no forward-mode derivative (torch.func.jvp, torch.autograd.forward_ad); "
            "use backend='reference' for that."
        )
