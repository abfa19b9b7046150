"""What training keeps in memory: blocks computed again in backward or gathered by FSDP2, and frozen weights once.

The blocks of a model are the units of both.
"""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

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


def halve(teacher: nn.Module) -> None:
    """Turn weights to bf16, but not buffers: rotary frequencies need more bits."""
    for weight in teacher.parameters():
        weight.data = weight.data.bfloat16()


def share_frozen(student: nn.Module, teacher: PreTrainedModel) -> int:
    """Let frozen weights of the student that equal the teacher's use the teacher's memory; returns the bytes saved.

    The token head never trains, and the core is the teacher's until step 1.2, or as long as adapters train in its
    place; in a transfer all but the vocabulary is. Equal means in dtype too: with a bf16 teacher the student keeps fp32
    weights of its own, which FSDP2 can shard.
    """
    own = dict(teacher.named_parameters()) | {"lm_head.weight": teacher.get_output_embeddings().weight}
    saved = 0
    for name, weight in student.named_parameters():
        # of a map with an adapter, and of the model inside a student in transfer
        name = name.replace(".base_layer.", ".").removeprefix("student.")
        twin = own.get("lm_head.weight" if name == "token_head.weight" else name.replace("core.", "model.", 1))
        if weight.requires_grad or twin is None or weight.data_ptr() == twin.data_ptr():
            continue
        same_kind = (weight.shape, weight.dtype, weight.device) == (twin.shape, twin.dtype, twin.device)
        if same_kind and torch.equal(weight, twin):
            weight.data = twin.data
            saved += weight.numel() * weight.element_size()
    return saved


class EmbeddingsOnly(nn.Module):
    """The part of a teacher that step 1.1 reads, its table of embeddings; nothing else goes to the device."""

    def __init__(self, teacher: PreTrainedModel):
        super().__init__()
        self.embedding = teacher.get_input_embeddings()

    def get_input_embeddings(self) -> nn.Embedding:
        """The teacher's table of embeddings [V, E]; transformers' name for it."""
        return self.embedding
