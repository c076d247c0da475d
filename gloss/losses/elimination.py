"""Taking nodes out of a Markov chain one by one, without subtraction: where walks from the hidden nodes of a graph end.

I − T_UU, the matrix of the closed form, becomes singular to working precision once a cluster of hidden nodes has no
visible neighbour; this never forms it (Grassmann, Taksar, Heyman 1985).
"""

import warnings
from functools import cache

import torch
from torch import Tensor


def eliminate(rates: Tensor, num_classes: int) -> Tensor:
    """Log rates [U, C + U] of U hidden nodes to C classes and to each other -> log rates [U, C] to the classes alone.

    Node k leaves the chain by sending whoever goes to k on to where k goes next. Rates of a node to itself never
    matter, nor does a constant added to a row. Costs U² (C + U) operations and, for the gradient, as many numbers.
    """
    if rates.is_cuda and (kernel := _kernel(rates.device)):
        return kernel(rates.contiguous(), num_classes)
    for k in reversed(range(len(rates))):
        rest, to_k = rates.split([num_classes + k, 1], dim=1)
        rates = torch.logaddexp(rest, to_k + rest[k].log_softmax(dim=0))  # row k only gains a factor
    return rates


@cache
def _kernel(device: torch.device):
    """The same in two launches instead of 20 a node; None, with a warning, where it cannot be built."""
    try:
        from gloss.losses.elimination_kernels import Eliminate

        Eliminate.apply(torch.zeros(1, 2, device=device), 1)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton (Windows), no C compiler or Python headers, a GPU it does not know
        reason = str(error).strip().splitlines() or [""]
        warnings.warn(
            f"G-Loss runs on {device} without its kernel, in many small steps ({type(error).__name__}: {reason[0]}); "
            "it needs triton, a C compiler and Python's headers",
            stacklevel=2,
        )
        return None
    return Eliminate.apply
