"""FLOPs per byte of every part and of every step of the curriculum, in closed form.

A product of T rows takes 2 T D O FLOPs, and as many again for each of its two gradients. Counted is what the code
computes: matrix products, convolutions and attention, with what attention masks afterwards, the padding of the last SSD
chunk and the optimiser Muon. Elementwise work is not counted: it is memory traffic, part of the utilisation.

    attention   4 H W a pair of chunks forward (scores, values), 10 H W backward (scores again, and four gradients);
                which pairs meet is decided by `packed_attention.attention_blocks`, which is called here
    SSD         2 Q N + 2 Q I + 4 I N a byte forward, 4 Q N + 4 Q I + 8 I N backward (model/ssd.py)

A part costs more or less by what is asked of it (`Work`), and that follows from what the step trains and where its
objective has a graph (PASSES). `tests/test_flops.py` compares all of it with torch's FlopCounterMode.

Shape letters: B rows, L bytes, M chunks, D byte width, E core width, F feed-forward width, I inner width, N state size,
H heads, W head width, G key-value heads, Q bytes of an SSD chunk, X convolved channels, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from dbyte.distill import objectives
from dbyte.distill.losses import has_next
from dbyte.distill.steps import CORE, DECODER, ENCODER, ROUTER, Step
from dbyte.model.blocks import StackShape
from dbyte.model.core import positions_within
from dbyte.model.packed_attention import attention_blocks
from dbyte.model.router import BYTES
from dbyte.model.student import JOINT, ByteStudent, StudentConfig

SMOOTHING_CHUNK = 64  # the default of `ssd`, which `smooth` takes
NEWTON_SCHULZ_STEPS = 5  # the default of torch.optim.Muon


@dataclass(frozen=True)
class Work:
    """FLOPs per byte of a part.

    forward; inward: gradients that lead to weights and to the input alike; entry: those of the first products towards
    the part's input, which only what lies before it can ask for; weights: gradients of weights.
    """

    forward: float = 0.0
    inward: float = 0.0
    entry: float = 0.0
    weights: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.inward + other.inward, self.entry + other.entry,
                    self.weights + other.weights)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.forward * factor, self.inward * factor, self.entry * factor, self.weights * factor)

    def inside(self) -> "Work":
        """Return the work of a part whose input always wants a gradient: a norm before it trains, for example."""
        return Work(self.forward, self.inward + self.entry, 0.0, self.weights)

    def flops(self, *, asked: bool, trains: bool, again: bool = False) -> float:
        """FLOPs per byte. asked: the part's input wants a gradient; again: forward runs twice (checkpointing)."""
        backward = asked or trains
        return (self.forward * (1 + (again and backward)) + self.inward * backward + self.entry * asked
                + self.weights * trains)


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


def product(width_in: int, width_out: int) -> Work:
    """A matrix product with a weight."""
    flops = 2.0 * width_in * width_out
    return Work(flops, 0.0, flops, flops)


def swiglu(width: int, ffn_width: int) -> Work:
    """A SwiGLU: gate and up, then down, whose input's gradient is wanted where gate and up train."""
    return product(width, 2 * ffn_width) + product(ffn_width, width).inside()


def scan_work(*, inner: int, state: int, chunk: int) -> Work:
    """SSD, whose hand-written backward pass computes every gradient."""
    forward = 2.0 * chunk * state + 2.0 * chunk * inner + 4.0 * inner * state
    return Work(forward, 2 * forward)


def mamba2_work(shape: StackShape, row_bytes: int) -> Work:
    """A Mamba2 mixer; convolution, scan and way out have backward passes by hand, which compute every gradient."""
    N = shape.state_size
    Q = shape.chunk_size
    inner = shape.expand * shape.width
    channels = inner + 2 * N
    heads = inner // shape.head_width
    convolved = 2.0 * shape.conv_width * channels * (row_bytes + shape.conv_width - 1) / row_bytes
    convolution = Work(convolved, convolved + 2.0 * channels)  # + the bias, whose sum is a product with ones
    scanned = -(-row_bytes // Q) * Q / row_bytes
    out = 2.0 * inner * shape.width
    return (product(shape.width, inner + channels + heads) + convolution
            + scan_work(inner=inner, state=N, chunk=Q) * scanned + Work(out, 2 * out))


def byte_attention_work(shape: StackShape, row_bytes: int) -> Work:
    """The attention mixer: every byte meets every byte of its row before masks apply."""
    met = 4.0 * shape.width * row_bytes
    return product(shape.width, 3 * shape.width) + Work(met, 2.5 * met) + product(shape.width, shape.width)


def gated_convolution_work(shape: StackShape, row_bytes: int) -> Work:
    """The convolution mixer; the backward passes of convolution and output compute every gradient."""
    inner = shape.expand * shape.width
    convolved = 2.0 * shape.window * inner * (row_bytes + shape.window - 1) / row_bytes
    out = 2.0 * inner * shape.width
    return product(shape.width, 2 * inner) + Work(convolved, convolved + 2.0 * inner) + Work(out, 2 * out)


MIXER_WORK = {"mamba2": mamba2_work, "attention": byte_attention_work, "convolution": gated_convolution_work}


def stack_work(shape: StackShape, row_bytes: int) -> Work:
    """A stack of blocks."""
    mixer = MIXER_WORK[shape.mixer](shape, row_bytes)
    return ((mixer + swiglu(shape.width, shape.block_ffn_width())) * shape.layers).inside()


def core_work(core: PreTrainedConfig, rows: RowShape) -> Work:
    """The teacher's transformer without embedding and head, per chunk."""
    E = core.hidden_size
    F = core.intermediate_size
    W = head_width(core)
    wide = core.num_attention_heads * W
    narrow = core.num_key_value_heads * W
    met = 4.0 * wide * rows.pairs / rows.chunks
    layer = product(E, wide + 2 * narrow) + product(wide, E) + Work(met, 2.5 * met) + swiglu(E, F)
    return (layer * core.num_hidden_layers).inside()


def head_width(core: PreTrainedConfig) -> int:
    """W of a core."""
    return getattr(core, "head_dim", None) or core.hidden_size // core.num_attention_heads


def router_work(config: StudentConfig, row_bytes: int) -> Work:
    """The router, over all bytes of a row but one."""
    seen = (row_bytes - 1) / row_bytes
    if config.router == "split":
        shape = config.router_shape()
        return (stack_work(shape, row_bytes) + product(shape.width, 1) * seen).inside()
    D = config.byte_width
    F = config.router_ffn_width
    return (swiglu(D, F) if F else product(D, D)) * (2 * seen)


def part_work(config: StudentConfig, rows: RowShape) -> dict[str, Work]:
    """FLOPs per byte of every part, by the names of the student's modules, plus the teacher's two and `smoothing`."""
    core = config.core_config
    D = config.byte_width
    E = core.hidden_size
    L = rows.row_bytes
    V = core.vocab_size
    chunks = rows.chunks / L
    predicted = rows.predicted / L
    parts = {
        "encoder": stack_work(config.encoder_shape(), L),
        "encoder_projection": product(D, E) * chunks,
        "router": router_work(config, L),
        "core": core_work(core, rows) * chunks,
        "token_head": product(E, V) * predicted,
        "teacher core": core_work(core, rows) * chunks,
        "teacher head": product(E, V) * predicted,
        "residual": product(D, E),
        "decoder_projection": product(E, D),
        "decoder": stack_work(config.decoder_shape(), L),
        "byte_head": product(D, JOINT if config.decoding == "jbp" else BYTES),
    }
    if config.decoding == "mbp":
        parts["second_head"] = product(D, BYTES)
    if config.smoothing:
        scanned = -(-rows.chunks // SMOOTHING_CHUNK) * SMOOTHING_CHUNK / L
        parts["smoothing"] = scan_work(inner=E, state=1, chunk=SMOOTHING_CHUNK) * scanned
    return parts


# -- steps: which parts run, and which gradients are asked for --------------------------------------------------------

TEACHER = ("teacher core", "teacher head")
DISTILLED = ENCODER + CORE + ("token_head",)
WRITTEN = ("smoothing",) + DECODER
# objective -> (parts that run without a graph, parts that run with one)
PASSES = {
    objectives.align: ((), ENCODER),
    objectives.align_with_boundary: ((), ENCODER + ROUTER),
    objectives.distill: (TEACHER, DISTILLED),
    objectives.distill_reverse: (TEACHER, DISTILLED),
    objectives.distill_js: (TEACHER, DISTILLED),
    objectives.distill_with_boundary: (TEACHER, DISTILLED + ROUTER),
    objectives.boundary: (ENCODER[:2], ROUTER),
    objectives.head: (ENCODER + ROUTER + CORE, WRITTEN),
    objectives.full: (ROUTER, ENCODER + CORE + WRITTEN),
    objectives.full_with_boundary: ((), ENCODER + ROUTER + CORE + WRITTEN),
}
SOURCES = {  # what a part reads
    "encoder": ("byte_embedding",), "router": ("encoder",), "encoder_projection": ("encoder",),
    "core": ("encoder_projection",), "token_head": ("core",), "smoothing": ("core", "router"), "residual": ("encoder",),
    "decoder_projection": ("null_E", "core", "residual"), "decoder": ("decoder_projection",),
    "byte_head": ("decoder",), "second_head": ("decoder",),
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
        return part in self.with_graph and (part in self.trained or "" in self.trained)

    def is_asked(self, part: str) -> bool:
        """True if the part's input wants a gradient: something before it trains."""
        return part in self.with_graph and any(
            self.trains(source) or self.is_asked(source) for source in SOURCES.get(part, ()))

    def keeps(self, part: str) -> bool:
        """True if the part's forward pass keeps something for a backward pass."""
        return self.trains(part) or self.is_asked(part)


def step_pass(config: StudentConfig, step: Step) -> Pass:
    """How a step of the curriculum runs; ValueError for an objective that is not in PASSES."""
    if step.objective not in PASSES:
        raise ValueError(f"step {step.name!r} has an objective whose parts are not known here; known are those of the "
                         "curriculum (dbyte/distill/objectives.py)")
    without, graph = PASSES[step.objective]
    if step.objective is objectives.full and (config.smoothing or config.confidence):
        without = ()
        graph = ROUTER + graph  # the decoder reads the router's probability
    return Pass(without, graph, frozenset(part for group in step.groups for part in group.parts))


def step_flops(
    config: StudentConfig, rows: RowShape, step: Step, *, checkpointing: bool = False
) -> dict[str, float]:
    """FLOPs per byte of each part that a step runs, forward and backward, optimiser left out."""
    how = step_pass(config, step)
    spent = {}
    for part, work in part_work(config, rows).items():
        if part in how.with_graph:
            spent[part] = work.flops(asked=how.is_asked(part), trains=how.trains(part),
                                     again=checkpointing and part in CHECKPOINTED)
        elif part in how.without_graph:
            spent[part] = work.forward
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
