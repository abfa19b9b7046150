"""The blocks of a model as units: computed again in backward instead of kept, and gathered one by one by FSDP2."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from dbyte.kernels.fast import fast_products
from dbyte.model.blocks import Block


def sharding_units(model: nn.Module) -> list[nn.Module]:
    """The blocks of encoder, decoder and split router, and the layers of every transformer core inside."""
    cores = [module for module in model.modules() if isinstance(getattr(module, "layers", None), nn.ModuleList)]
    return [module for module in model.modules() if isinstance(module, Block)] + [
        layer for core in cores for layer in core.layers]


def checkpoint_activations(model: nn.Module, on: bool) -> None:
    """Make every unit keep only its input and run again in backward, or undo that; values stay the same."""
    for unit in sharding_units(model):
        unit.__dict__.pop("forward", None)
        if on:
            # the same products in both runs, whether or not the caller has entered `fast_products`
            unit.forward = partial(checkpoint, unit.forward, use_reentrant=False,
                                   context_fn=lambda: (fast_products(), fast_products()))
