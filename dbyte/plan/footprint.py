"""Memory of one GPU in a step of the curriculum, in closed form: what stays, and what a row adds.

Weights, gradients and moments are fp32, matrix products bf16 by autocast, as in the trainer. An activation counts where
autograd keeps it for the backward pass; `tests/test_footprint.py` compares the sum with what autograd keeps. Not
counted: the allocator's fragments, CUDA's context, what lives inside one operation only, and parts without a graph.

    wide numbers    fp32 under autocast too: norms, residual streams, SSD
    narrow numbers  inputs and outputs of matrix products: bf16 under autocast, which casts again for every product

Shape letters: L bytes, M chunks, D byte width, E core width, F feed-forward width, W head width.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dbyte.distill.sliced_losses import ROWS_AT_ONCE
from dbyte.distill.steps import Step
from dbyte.model.blocks import StackShape
from dbyte.model.checkpointing import sharding_units
from dbyte.model.student import JOINT, ByteStudent, StudentConfig
from dbyte.plan.flops import Pass, RowShape, head_width, step_pass

SHARDINGS = ("none", "ddp", "fsdp2")
FP32, BF16 = 4, 2  # bytes of a number
ADAMW_MOMENTS, MUON_MOMENTS = 2, 1  # numbers for each weight
LOGIT_COPIES = 5  # at the peak of a slice of Eq. 3: two log probabilities, two probabilities, their difference
GATHERED = 2  # units of FSDP2 that are complete in addition to the root: the one that runs and the one fetched ahead
USABLE = 0.9  # of a GPU's memory, the rest for what is not counted


@dataclass(frozen=True)
class Activations:
    """What autograd keeps of a row for the backward pass; methods return bytes, per byte or chunk that goes through.

    half: bf16 autocast. backend: of Mamba2. checkpointing: of the blocks of encoder, core and decoder: their inputs are
    kept, and all of one block of each part while it runs again.
    """

    config: StudentConfig
    rows: RowShape
    half: bool = True
    backend: str = "torch"
    checkpointing: bool = False

    @property
    def narrow(self) -> int:
        """Bytes of a narrow number."""
        return BF16 if self.half else FP32

    def row_bytes(self, step: Step) -> float:
        """Bytes that a row keeps in a step of the curriculum."""
        how = step_pass(self.config, step)
        D = self.config.byte_width
        E = self.config.core_config.hidden_size
        L = self.rows.row_bytes
        M = self.rows.chunks
        kept = {
            "encoder": self.stack(self.config.encoder_shape()) * L,
            "encoder_projection": self.narrow * D * M,
            "router": self.router() * L,
            "core": self.core() * M,
            "token_head": self.narrow * E * self.rows.predicted,
            "residual": self.narrow * D * L,
            "decoder_projection": self.narrow * E * L,
            "decoder": self.stack(self.config.decoder_shape()) * L,
            "byte_head": (FP32 * JOINT + self.narrow * D) * L,
        }
        return sum(kept[part] for part in kept if how.keeps(part))

    def stack(self, shape: StackShape) -> float:
        """A stack of Mamba2 blocks and its last norm."""
        block = self.mamba2(shape)
        if shape.ffn_width:
            block += FP32 * (2 * shape.width + 1) + self.swiglu(shape.width, shape.ffn_width)
        blocks = FP32 * shape.width * shape.layers + block if self.checkpointing else block * shape.layers
        return blocks + FP32 * (2 * shape.width + 1)

    def mamba2(self, shape: StackShape) -> float:
        """A Mamba2 mixer and the norm before it; `fast` (fp32) and `torch` keep what is inside SSD's chunks."""
        D = shape.width
        N = shape.state_size
        Q = shape.chunk_size
        inner = shape.expand * D
        heads = inner // shape.head_width
        channels = inner + 2 * N
        entering = inner * N / Q  # the state that enters a chunk, for each of its bytes
        norm = FP32 * (2 * D + 1) + self.narrow * D
        if self.backend == "fast":
            return norm + FP32 * (1 + 3 * channels + 4 * inner + D + 4 * heads + heads * Q + Q + entering)
        # the gated norm: gate, silu(gate), y, their product, and that over its scale; then what out_proj reads
        gated = FP32 * (1 + 5 * inner + (0 if self.half else channels + heads)) + self.narrow * inner
        if self.backend == "triton":  # convolution's input and output, y and step sizes; SSD runs again in backward
            return norm + gated + FP32 * 3 * heads + self.narrow * (2 * channels + inner)
        scan = 5 * inner + 2 * N + 6 * heads + 2 * heads * Q + Q + 2 * entering + Q / 4
        return norm + gated + FP32 * scan + self.narrow * 3 * channels

    def swiglu(self, width: int, ffn_width: int) -> float:
        """Input as gate and up read it, both, silu of the gate, and the product."""
        return self.narrow * (width * (2 if self.half else 1) + 4 * ffn_width)

    def router(self) -> float:
        """Query and key: each product reads a copy, as all states of a row but one are not contiguous; the cosine."""
        D = self.config.byte_width
        F = self.config.router_ffn_width
        return 2 * self.narrow * ((2 * D + 4 * F if F else D) + 2 * D)

    def core(self) -> float:
        """The core; keys and values that heads share are copied for every block of queries.

        What is multiplied by a norm's weight has been narrowed again, other than in a stack.
        """
        core = self.config.core_config
        E = core.hidden_size
        heads = core.num_attention_heads
        norm = FP32 * (E + 1) + self.narrow * E
        read = self.narrow * E * (3 if self.half else 1)  # by the products for query, key and value
        copies = self.rows.keys / self.rows.chunks if core.num_key_value_heads < heads else 1
        attention = FP32 * heads + self.narrow * heads * head_width(core) * (3 + 2 * copies)
        layer = norm + read + attention + norm + self.swiglu(E, core.intermediate_size)
        layers = (self.narrow * E * core.num_hidden_layers + layer if self.checkpointing
                  else layer * core.num_hidden_layers)
        mask = self.narrow * self.rows.chunks
        return layers + mask + norm


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
    student: ByteStudent, teacher_parameters: int, step: Step, activations: Activations, *, gpus: int, sharding: str
) -> Footprint:
    """Memory of one of `gpus` GPUs in a step; student: on any device, meta included; sharding: one of SHARDINGS."""
    core = student.config.core_config
    how = step_pass(student.config, step)
    moments = sum(weight.numel() * (MUON_MOMENTS if isinstance(optimiser, torch.optim.Muon) else ADAMW_MOMENTS)
                  for optimiser in step.optimisers(student) for group in optimiser.param_groups
                  for weight in group["params"])
    trained = _numbers([student], trained=True)
    in_graph = sum(weight.numel() for name, weight in student.named_parameters() if how.keeps(name.split(".")[0]))
    shards = gpus if sharding == "fsdp2" else 1
    gathered = {"none": 0, "ddp": trained, "fsdp2": _whole_under_fsdp2(student, how)}[sharding]
    teacher = {"whole": teacher_parameters, "": 0, "embeddings": core.vocab_size * core.hidden_size}
    kinds = {
        "weights": FP32 * _numbers([student]) / shards,
        "gradients": FP32 * trained / shards,
        "moments of the optimiser": FP32 * moments / shards,
        "bf16 copies, gathered units, buckets": BF16 * in_graph * activations.half + FP32 * gathered,
        "teacher": activations.narrow * teacher[step.objective.reads_teacher],
        "logits of one slice": LOGIT_COPIES * FP32 * ROWS_AT_ONCE * core.vocab_size * how.keeps("token_head"),
    }
    return Footprint(kinds, activations.row_bytes(step))


def _whole_under_fsdp2(student: ByteStudent, how: Pass) -> int:
    """Return how many numbers FSDP2 gathers in addition to the shards, at the peak of a step.

    The root is what is in no unit (embedding, projections, heads, last norms). It is gathered from the
    forward pass to the end of the backward pass, whether the step reads it or not, and so are its gradients.
    """
    units = sharding_units(student)
    running = [unit for name, part in student.named_children() if name in how.without_graph + how.with_graph
               for unit in sharding_units(part)]
    root = _numbers([student]) - _numbers(units)
    root_gradients = _numbers([student], trained=True) - _numbers(units, trained=True)
    return (root + root_gradients + GATHERED * max((_numbers([unit]) for unit in running), default=0)
            + max((_numbers([unit], trained=True) for unit in running), default=0))


def _numbers(modules: list[nn.Module], *, trained: bool = False) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters()
               if weight.requires_grad or not trained)
