"""Weights that student and teacher have in common are held once.

The student's token head never trains, and its core is the teacher's until step 1.2: a second copy of what is equal is
memory for nothing. Equal means in dtype too, so this helps in fp32. Beside a bf16 teacher the student keeps fp32
weights of its own, which FSDP2 can share out.
"""

import torch
from torch import nn
from transformers import PreTrainedModel


class EmbeddingsOnly(nn.Module):
    """What step 1.1 needs of a teacher: its targets are a look-up in this table, made once and read ever after."""

    def __init__(self, teacher: PreTrainedModel):
        super().__init__()
        self.embedding = teacher.get_input_embeddings()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding


def share_frozen(student: nn.Module, teacher: PreTrainedModel | EmbeddingsOnly) -> int:
    """Let frozen weights of the student that equal the teacher's use the teacher's memory; returns the bytes saved."""
    if isinstance(teacher, EmbeddingsOnly):
        return 0
    own = dict(teacher.named_parameters()) | {"lm_head.weight": teacher.get_output_embeddings().weight}
    saved = 0
    for name, weight in student.named_parameters():
        twin = own.get("lm_head.weight" if name == "token_head.weight" else name.replace("core.", "model.", 1))
        if weight.requires_grad or twin is None or weight.data_ptr() == twin.data_ptr():
            continue
        if (weight.shape, weight.dtype, weight.device) == (twin.shape, twin.dtype, twin.device) and torch.equal(
                weight, twin):
            weight.data = twin.data
            saved += weight.numel() * weight.element_size()
    return saved
