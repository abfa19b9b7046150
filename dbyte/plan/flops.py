"""FLOPs per byte of every part and of every step of the curriculum, in closed form.

A product of T rows takes 2 T D O FLOPs, and as many again for each of its two gradients. Counted is what the code
computes: matrix products, convolutions and attention, with what attention masks afterwards, the padding of the last SSD
chunk and the optimiser Muon. Elementwise work is not counted: it is memory traffic, part of the utilisation.

    attention   4 H W a pair of chunks forward (scores, values), 10 H W backward (scores again, and four gradients);
                which pairs meet is decided by `packed_attention.attention_blocks`, which is called here
    SSD         2 Q N + 2 Q I + 4 I N a byte forward, twice that backward (model/ssd.py)

The work of a part is an array of four numbers, FLOPs per byte: forward; inward, for gradients that lead to weights and
to the input alike; entry, for those of the first products towards the part's input, which only what lies before it can
ask for; weights, for gradients of weights. Which of them a step needs follows from what it trains and from where its
objective has a graph (PASSES). `tests/test_flops.py` compares all of it with torch's FlopCounterMode.

Shape letters: B rows, L bytes, M chunks, D byte width, E core width, F feed-forward width, I inner width, N state size,
H heads, W head width, Q bytes of an SSD chunk, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from dbyte.distill import objectives
from dbyte.distill.losses import has_next
from dbyte.distill.steps import CORE, DECODER, ENCODER, ROUTER, Step
from dbyte.model.blocks import StackShape
from dbyte.model.core import positions_within
from dbyte.model.packed_attention import attention_blocks
from dbyte.model.student import JOINT, ByteStudent, StudentConfig

NEWTON_SCHULZ_STEPS = 5  # the default of torch.optim.Muon
PLANNED = dict(encoder_mixer="mamba2", router="integrated", decoding="jbp", smoothing=False, confidence=False)


@dataclass(frozen=True)
class RowShape:
    """What a row holds, on average: bytes, chunks (padding included), chunks with a next one in their document, and how
    many pairs and keys the blocks of attention read."""

    row_bytes: int
    chunks: float
    predicted: float
    pairs: float
    keys: float

    @classmethod
    def of_documents(cls, row_bytes: int, document_BM: Tensor, *, gpu: bool = False) -> "RowShape":
        """From the documents of the chunks of a batch (int64, -1 where padded); gpu: the blocks of attention there."""
        blocks = attention_blocks(positions_within(document_BM), gpu=gpu)
        return cls(row_bytes, document_BM.shape[1], float(has_next(document_BM).sum(1).float().mean()),
                   sum((end - start) * (end - first) for start, end, first in blocks),
                   sum(end - first for _, end, first in blocks))

    @classmethod
    def one_document(cls, row_bytes: int, bytes_per_token: float, *, gpu: bool = False) -> "RowShape":
        """A row that one document fills: no other row makes attention compute more."""
        chunks = max(round(row_bytes / bytes_per_token), 1)
        return cls.of_documents(row_bytes, torch.zeros(1, chunks, dtype=torch.long), gpu=gpu)


# -- parts, per byte or per chunk that goes through them --------------------------------------------------------------


def product(width_in: int, width_out: int) -> np.ndarray:
    """A matrix product with a weight."""
    flops = 2.0 * width_in * width_out
    return np.array([flops, 0.0, flops, flops])


def by_hand(forward: float, backward: float) -> np.ndarray:
    """A function whose backward pass computes every gradient, whichever is asked for."""
    return np.array([forward, backward, 0.0, 0.0])


def inside(work: np.ndarray) -> np.ndarray:
    """The work of a part whose input always wants a gradient, because a norm before it trains, for example."""
    forward, inward, entry, weights = work
    return np.array([forward, inward + entry, 0.0, weights])


def swiglu(width: int, ffn_width: int) -> np.ndarray:
    """A SwiGLU: gate and up, then down, whose input's gradient is wanted where gate and up train."""
    return product(width, 2 * ffn_width) + inside(product(ffn_width, width))


def stack_work(shape: StackShape, row_bytes: int) -> np.ndarray:
    """A stack of Mamba2 blocks; convolution, scan and way out have backward passes by hand."""
    N = shape.state_size
    Q = shape.chunk_size
    inner = shape.expand * shape.width
    channels = inner + 2 * N
    convolved = 2.0 * shape.conv_width * channels * (row_bytes + shape.conv_width - 1) / row_bytes
    padded = -(-row_bytes // Q) * Q / row_bytes
    scanned = (2.0 * Q * N + 2.0 * Q * inner + 4.0 * inner * N) * padded
    out = 2.0 * inner * shape.width
    block = (product(shape.width, inner + channels + inner // shape.head_width)
             + by_hand(convolved, convolved + 2.0 * channels)  # + the bias, whose sum is a product with ones
             + by_hand(scanned, 2 * scanned) + by_hand(out, 2 * out) + swiglu(shape.width, shape.ffn_width))
    return inside(block * shape.layers)


def core_work(core: PreTrainedConfig, rows: RowShape) -> np.ndarray:
    """The teacher's transformer without embedding and head, per chunk."""
    E = core.hidden_size
    wide = core.num_attention_heads * head_width(core)
    narrow = core.num_key_value_heads * head_width(core)
    met = 4.0 * wide * rows.pairs / rows.chunks
    layer = (product(E, wide + 2 * narrow) + product(wide, E) + by_hand(met, 2.5 * met)
             + swiglu(E, core.intermediate_size))
    return inside(layer * core.num_hidden_layers)


def head_width(core: PreTrainedConfig) -> int:
    """W of a core."""
    return getattr(core, "head_dim", None) or core.hidden_size // core.num_attention_heads


def part_work(config: StudentConfig, rows: RowShape) -> dict[str, np.ndarray]:
    """FLOPs per byte of every part, by the names of the student's modules, plus the teacher's two."""
    core = config.core_config
    D = config.byte_width
    E = core.hidden_size
    L = rows.row_bytes
    chunks = rows.chunks / L
    core_by_byte = core_work(core, rows) * chunks
    head_by_byte = product(E, core.vocab_size) * (rows.predicted / L)
    side = swiglu(D, config.router_ffn_width) if config.router_ffn_width else product(D, D)
    return {
        "encoder": stack_work(config.encoder_shape(), L),
        "encoder_projection": product(D, E) * chunks,
        "router": side * (2 * (L - 1) / L),
        "core": core_by_byte,
        "token_head": head_by_byte,
        "teacher core": core_by_byte,
        "teacher head": head_by_byte,
        "residual": product(D, E),
        "decoder_projection": product(E, D),
        "decoder": stack_work(config.decoder_shape(), L),
        "byte_head": product(D, JOINT),
    }


# -- steps: which parts run, and which gradients are asked for --------------------------------------------------------

TEACHER = ("teacher core", "teacher head")
DISTILLED = ENCODER + CORE + ("token_head",)
# objective -> (parts that run without a graph, parts that run with one)
PASSES = {
    objectives.align: ((), ENCODER),
    objectives.align_with_boundary: ((), ENCODER + ROUTER),
    objectives.distill: (TEACHER, DISTILLED),
    objectives.distill_with_boundary: (TEACHER, DISTILLED + ROUTER),
    objectives.boundary: (ENCODER[:2], ROUTER),
    objectives.head: (ENCODER + ROUTER + CORE, DECODER),
    objectives.full: (ROUTER, ENCODER + CORE + DECODER),
    objectives.full_with_boundary: ((), ENCODER + ROUTER + CORE + DECODER),
}
SOURCES = {  # what a part reads
    "encoder": ("byte_embedding",), "router": ("encoder",), "encoder_projection": ("encoder",),
    "core": ("encoder_projection",), "token_head": ("core",), "residual": ("encoder",),
    "decoder_projection": ("null_E", "core", "residual"), "decoder": ("decoder_projection",), "byte_head": ("decoder",),
}
CHECKPOINTED = ("encoder", "core", "decoder")


@dataclass(frozen=True)
class Pass:
    """How a step runs the student: parts without and with a graph, and what of them trains."""

    without_graph: tuple[str, ...]
    with_graph: tuple[str, ...]
    trained: frozenset[str]

    def trains(self, part: str) -> bool:
        """True if the part's weights receive a gradient."""
        return part in self.with_graph and part in self.trained

    def is_asked(self, part: str) -> bool:
        """True if the part's input wants a gradient: something before it trains."""
        return part in self.with_graph and any(self.keeps(source) for source in SOURCES.get(part, ()))

    def keeps(self, part: str) -> bool:
        """True if the part's forward pass keeps something for a backward pass."""
        return self.trains(part) or self.is_asked(part)


def step_pass(config: StudentConfig, step: Step) -> Pass:
    """How a step of the curriculum runs; ValueError for an objective or a kind of student that is not planned."""
    if step.objective not in PASSES:
        raise ValueError(f"step {step.name!r} has an objective whose parts are not known here; known are those of the "
                         "scales' curricula (dbyte/distill/objectives.py)")
    if other := {name: getattr(config, name) for name in PLANNED if getattr(config, name) != PLANNED[name]}:
        raise ValueError(f"a plan knows the paper's kind of student, {PLANNED}; found {other}")
    return Pass(*PASSES[step.objective], frozenset(part for group in step.groups for part in group.parts))


def step_flops(
    config: StudentConfig, rows: RowShape, step: Step, *, checkpointing: bool = False
) -> dict[str, float]:
    """FLOPs per byte of each part in a step, forward and backward, optimiser left out; 0 for a part that does not run.

    checkpointing: the blocks of encoder, core and decoder run forward twice where they have a backward pass.
    """
    how = step_pass(config, step)
    spent = {}
    for part, work in part_work(config, rows).items():
        runs = part in how.without_graph + how.with_graph
        again = checkpointing and part in CHECKPOINTED and how.keeps(part)
        spent[part] = float(work @ [runs + again, how.keeps(part), how.is_asked(part), how.trains(part)])
    return spent


def muon_flops(student: ByteStudent, step: Step) -> float:
    """Return the FLOPs of Muon in one update: five Newton-Schulz steps a matrix. AdamW's work is elementwise.

    It freezes and thaws the student's weights as the step does.
    """
    spent = 0.0
    for optimiser in step.optimisers(student):
        if isinstance(optimiser, torch.optim.Muon):
            for weight in (weight for group in optimiser.param_groups for weight in group["params"]):
                short, long = sorted(weight.shape)
                spent += NEWTON_SCHULZ_STEPS * (4.0 * short * short * long + 2.0 * short**3)
    return spent
