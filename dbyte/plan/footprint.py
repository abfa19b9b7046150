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
from transformers import PreTrainedConfig

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
class Saved:
    """How many numbers autograd keeps: wide ones (fp32) and narrow ones (bf16 under autocast)."""

    wide: float = 0.0
    narrow: float = 0.0

    def __add__(self, other: "Saved") -> "Saved":
        return Saved(self.wide + other.wide, self.narrow + other.narrow)

    def __mul__(self, factor: float) -> "Saved":
        return Saved(self.wide * factor, self.narrow * factor)

    def bytes(self, *, half: bool) -> float:
        """Bytes of them; half: under autocast."""
        return self.wide * FP32 + self.narrow * (BF16 if half else FP32)


def norm_saved(width: int, *, readers: int, half: bool) -> Saved:
    """An RMSNorm of a stack: its input, that over its scale, and the output as each of `readers` products reads it."""
    return Saved(2 * width + 1, width * (readers if half else 1))


def core_norm_saved(width: int, *, readers: int, half: bool) -> Saved:
    """An RMSNorm of the core, where what is multiplied by the weight has been narrowed again; see `norm_saved`."""
    return Saved(width + 1, width * (1 + (readers if half else 1)))


def mamba2_saved(
    width: int, *, inner: int, heads: int, state: int, chunk: int, half: bool, backend: str
) -> Saved:
    """A Mamba2 mixer and the norm before it; `fast` (fp32) and `torch` keep what is inside SSD's chunks."""
    channels = inner + 2 * state
    inside = chunk + inner * state / chunk  # scores of a chunk's bytes, and the state that enters it
    if backend == "fast":
        return norm_saved(width, readers=1, half=half) + Saved(
            1 + 3 * channels + 4 * inner + width + 4 * heads + heads * chunk + inside)
    # the gated norm: gate, silu(gate), y, their product, and that over its scale; then what out_proj reads
    gated = Saved(1 + 4 * inner + (inner if half else inner + channels + heads), inner)
    if backend == "triton":  # convolution's input and output, y and step sizes; SSD runs again in backward
        scan = Saved(3 * heads, 2 * channels + inner)
    else:
        scan = Saved(5 * inner + 2 * state + 6 * heads + 2 * heads * chunk + inside + inner * state / chunk + chunk / 4,
                     3 * channels)
    return norm_saved(width, readers=1, half=half) + gated + scan


def gated_convolution_saved(width: int, *, inner: int, half: bool, backend: str) -> Saved:
    """A gated convolution and the norm before it."""
    norm = norm_saved(width, readers=1, half=half)
    if backend == "fast":
        return norm + Saved(1 + width + 5 * inner)
    return norm + Saved(1 + (5 if half else 6) * inner, 3 * inner)


def swiglu_saved(width: int, ffn_width: int, *, half: bool) -> Saved:
    """Input as gate and up read it, both, silu of the gate, and the product."""
    return Saved(0, width * (2 if half else 1) + 4 * ffn_width)


def block_saved(shape: StackShape, row_bytes: int, *, half: bool, backend: str) -> Saved:
    """One block of a stack, per byte of a row; attention keeps its mask, a number for each pair of bytes."""
    D = shape.width
    F = shape.block_ffn_width()
    if shape.mixer == "attention":
        mixer = norm_saved(D, readers=1, half=half) + Saved(D // shape.head_width, 5 * D + row_bytes)
    elif shape.mixer == "convolution":
        mixer = gated_convolution_saved(D, inner=shape.expand * D, half=half, backend=backend)
    else:
        inner = shape.expand * D
        mixer = mamba2_saved(D, inner=inner, heads=inner // shape.head_width, state=shape.state_size,
                             chunk=shape.chunk_size, half=half, backend=backend)
    return mixer + (norm_saved(D, readers=0, half=True) + swiglu_saved(D, F, half=half) if F else Saved())


def layer_saved(core: PreTrainedConfig, rows: RowShape, *, half: bool) -> Saved:
    """One layer of the core, per chunk; keys and values that heads share are copied for every block of queries."""
    E = core.hidden_size
    W = head_width(core)
    heads = core.num_attention_heads
    copies = rows.keys / rows.chunks if core.num_key_value_heads < heads else 1
    return (core_norm_saved(E, readers=3, half=half) + Saved(heads, heads * W * (3 + 2 * copies))
            + core_norm_saved(E, readers=0, half=True) + swiglu_saved(E, core.intermediate_size, half=half))


def _stack_saved(
    shape: StackShape, row_bytes: int, *, half: bool, backend: str, checkpointing: bool = False
) -> Saved:
    block = block_saved(shape, row_bytes, half=half, backend=backend)
    kept = Saved(shape.width) * shape.layers + block if checkpointing else block * shape.layers
    return kept + Saved(2 * shape.width + 1)


def _core_saved(core: PreTrainedConfig, rows: RowShape, *, half: bool, checkpointing: bool) -> Saved:
    layer = layer_saved(core, rows, half=half)
    mask = Saved(0, rows.chunks)
    kept = (Saved(0, core.hidden_size) * core.num_hidden_layers + layer if checkpointing
            else layer * core.num_hidden_layers)
    return kept + mask + core_norm_saved(core.hidden_size, readers=0, half=True)


def _router_saved(config: StudentConfig, row_bytes: int, *, half: bool, backend: str) -> Saved:
    D = config.byte_width
    F = config.router_ffn_width
    if config.router == "split":
        shape = config.router_shape()
        return _stack_saved(shape, row_bytes, half=half, backend=backend) + Saved(0, shape.width)
    # each product reads a copy of its own: all states of a row but one are not contiguous
    side = swiglu_saved(D, F, half=True) if F else Saved(0, D)
    return (side + Saved(0, 2 * D)) * 2  # + the cosine's inputs, and those over their lengths


def activation_bytes(
    config: StudentConfig, rows: RowShape, step: Step, *, half: bool = True, backend: str = "torch",
    checkpointing: bool = False,
) -> dict[str, float]:
    """Return the bytes that a row keeps for the backward pass of a step, by part.

    half: bf16 autocast. backend: of Mamba2. checkpointing: of the blocks of encoder, core and decoder: their inputs are
    kept, and all of one block of each part while it runs again.
    """
    how = step_pass(config, step)
    core = config.core_config
    D = config.byte_width
    E = core.hidden_size
    L = rows.row_bytes
    M = rows.chunks
    options = dict(half=half, backend=backend)
    saved = {
        "encoder": _stack_saved(config.encoder_shape(), L, **options, checkpointing=checkpointing) * L,
        "encoder_projection": Saved(0, D) * M,
        "router": _router_saved(config, L, **options) * L,
        "core": _core_saved(core, rows, half=half, checkpointing=checkpointing) * M,
        "token_head": Saved(0, E) * rows.predicted,
        "residual": Saved(0, D) * L,
        "decoder_projection": Saved(0, E * (1 + config.confidence)) * L,
        "decoder": _stack_saved(config.decoder_shape(), L, **options, checkpointing=checkpointing) * L,
        "byte_head": Saved(JOINT, D) * L,
    }
    return {part: numbers.bytes(half=half) for part, numbers in saved.items() if how.keeps(part)}


@dataclass(frozen=True)
class Footprint:
    """Bytes of one GPU in one step: what is always there, and what each row adds."""

    weights: float
    gradients: float
    moments: float
    copies: float
    teacher: float
    logits: float
    row: float

    @property
    def fixed(self) -> float:
        """Bytes without any row."""
        return self.weights + self.gradients + self.moments + self.copies + self.teacher + self.logits

    def rows_that_fit(self, memory_bytes: float) -> int:
        """The most rows at a time that USABLE of a memory holds; 0: not one."""
        return max(int((USABLE * memory_bytes - self.fixed) // self.row), 0)


def footprint(
    student: ByteStudent, teacher_parameters: int, rows: RowShape, step: Step, *, gpus: int, sharding: str,
    half: bool = True, backend: str = "torch", checkpointing: bool = False,
) -> Footprint:
    """Memory of one of `gpus` GPUs in a step; student: on any device, meta included.

    Raises:
        ValueError: for a sharding that is not of SHARDINGS.
    """
    if sharding not in SHARDINGS:
        raise ValueError(f"unknown sharding {sharding!r}: choose one of {', '.join(SHARDINGS)}")
    config = student.config
    how = step_pass(config, step)
    moments = sum(weight.numel() * (MUON_MOMENTS if isinstance(optimiser, torch.optim.Muon) else ADAMW_MOMENTS)
                  for optimiser in step.optimisers(student) for group in optimiser.param_groups
                  for weight in group["params"])
    trained = sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
    weights = sum(weight.numel() for weight in student.parameters())
    in_graph = sum(weight.numel() for name, weight in student.named_parameters() if how.keeps(name.split(".")[0]))
    shards = gpus if sharding == "fsdp2" else 1
    gathered = {"none": 0, "ddp": FP32 * trained, "fsdp2": FP32 * _whole_under_fsdp2(student, how)}[sharding]
    teacher = {"whole": teacher_parameters, "": 0, "embeddings": (
        config.core_config.vocab_size * config.core_config.hidden_size)}[step.objective.reads_teacher]
    logits = (LOGIT_COPIES * FP32 * ROWS_AT_ONCE * config.core_config.vocab_size
              if how.keeps("token_head") else 0)
    return Footprint(
        FP32 * weights / shards, FP32 * trained / shards, FP32 * moments / shards,
        BF16 * in_graph * half + gathered, (BF16 if half else FP32) * teacher, logits,
        sum(activation_bytes(config, rows, step, half=half, backend=backend, checkpointing=checkpointing).values()))


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
