"""Memory of one GPU in a step of the curriculum: what stays, in closed form, and what a row adds, counted.

Weights, gradients and moments are fp32, matrix products bf16 by autocast, as in the trainer. An activation counts where
autograd keeps it for the backward pass (counting.py). Not counted: the allocator's fragments, CUDA's context, what
lives inside one operation only, and parts without a graph.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dbyte.distill.sliced_losses import ROWS_AT_ONCE
from dbyte.distill.steps import Step
from dbyte.model.checkpointing import sharding_units
from dbyte.model.student import ByteStudent
from dbyte.plan.counting import Counted

SHARDINGS = ("none", "ddp", "fsdp2")
FP32, BF16 = 4, 2  # bytes of a number
ADAMW_MOMENTS, MUON_MOMENTS = 2, 1  # numbers for each weight
LOGIT_COPIES = 5  # at the peak of a slice of Eq. 3: two log probabilities, two probabilities, their difference
GATHERED = 2  # units of FSDP2 that are complete in addition to the root: the one that runs and the one fetched ahead
USABLE = 0.9  # of a GPU's memory, the rest for what is not counted


@dataclass(frozen=True)
class Footprint:
    """Bytes of one GPU in one step: what is always there, by kind, and what each row adds."""

    kinds: dict[str, float]
    row: float

    @property
    def fixed(self) -> float:
        """Bytes without any row."""
        return sum(self.kinds.values())

    def rows_that_fit(self, memory_bytes: float) -> int:
        """The most rows at a time that USABLE of a memory holds; 0: not one."""
        return max(int((USABLE * memory_bytes - self.fixed) // self.row), 0)


def footprint(
    student: ByteStudent, teacher_parameters: int, step: Step, counted: Counted, *, half: bool, gpus: int, sharding: str
) -> Footprint:
    """Memory of one of `gpus` GPUs in a step, given the counts of one row.

    student: on any device, meta included. half: products run in bf16. sharding: one of SHARDINGS.
    """
    core = student.config.core_config
    logits = LOGIT_COPIES * ROWS_AT_ONCE * core.vocab_size * ("token_head" in counted.in_graph)
    moments = sum(weight.numel() * (MUON_MOMENTS if isinstance(optimiser, torch.optim.Muon) else ADAMW_MOMENTS)
                  for optimiser in step.optimisers(student) for group in optimiser.param_groups
                  for weight in group["params"])
    trained = _numbers([student], trained=True)
    in_graph = sum(weight.numel() for name, weight in student.named_parameters()
                   if name.split(".")[0] in counted.in_graph)
    shards = gpus if sharding == "fsdp2" else 1
    gathered = {"none": 0, "ddp": trained, "fsdp2": _whole_under_fsdp2(student, counted)}[sharding]
    teacher = {"whole": teacher_parameters, "": 0, "embeddings": core.vocab_size * core.hidden_size}
    kinds = {
        "weights": FP32 * _numbers([student]) / shards,
        "gradients": FP32 * trained / shards,
        "moments of the optimiser": FP32 * moments / shards,
        "bf16 copies, gathered units, buckets": BF16 * in_graph * half + FP32 * gathered,
        "teacher": (BF16 if half else FP32) * teacher[step.objective.reads_teacher],
        "logits of one slice": FP32 * logits,
    }
    return Footprint(kinds, counted.kept)


def _whole_under_fsdp2(student: ByteStudent, counted: Counted) -> int:
    """Return how many numbers FSDP2 gathers in addition to the shards, at the peak of a step.

    The root is what is in no unit (embedding, projections, heads, last norms). It is gathered from the
    forward pass to the end of the backward pass, whether the step reads it or not, and so are its gradients.
    """
    units = sharding_units(student)
    running = [unit for name, part in student.named_children() if name in counted.ran for unit in sharding_units(part)]
    root = _numbers([student]) - _numbers(units)
    root_gradients = _numbers([student], trained=True) - _numbers(units, trained=True)
    return (root + root_gradients + GATHERED * max((_numbers([unit]) for unit in running), default=0)
            + max((_numbers([unit], trained=True) for unit in running), default=0))


def _numbers(modules: list[nn.Module], *, trained: bool = False) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters()
               if weight.requires_grad or not trained)
