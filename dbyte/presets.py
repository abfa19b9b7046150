"""The scales: one dial from a laptop's minutes to the paper's eight GPUs. Every number of a run is here.

`smoke` shows that everything runs, `small` measures what can be judged on two CPU cores, `gpu` trains a larger teacher
on the user's own text in minutes on one GPU, `hub` takes a published teacher to one GPU, and `paper` is Tables 12 and
13. Plain data: importing this needs neither torch nor transformers.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

FAMILIES = ("llama", "qwen3", "olmo2")  # of teachers: causal language models whose core reads plain embeddings


@dataclass(frozen=True)
class TeacherShape:
    """A teacher trained here: a model of `family` with tied embeddings and a byte-level BPE of `vocabulary` tokens.

    kv_heads: heads of keys and values (grouped-query attention), 0: as many as heads. positions: the most tokens that
    it reads; with as many as the bytes of a row, no row can have too many, wherever its boundaries are.
    tokenizer_corpora: the corpora of the scale that the tokenizer is trained on, () for all; the teacher itself is
    trained on all. A thousand tokens spent on the world alone keep its words whole and split prose into short pieces,
    whose ends one byte of look-ahead can tell more often: see `benchmarks/lookahead_bound.py`.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    ffn_width: int
    train_bytes: int
    rate: float
    tokenizer_corpora: tuple[str, ...] = ()
    muon_rate: float = 0.02
    initial_std: float = 0.08  # the library's default, 0.02, costs a model of this width hundreds of updates
    warmup: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    family: str = "llama"
    kv_heads: int = 0
    positions: int = 1024

    def __post_init__(self):
        if self.family not in FAMILIES or self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"a teacher needs a family of {', '.join(FAMILIES)} and kv_heads that divide its heads; "
                             f"found {self.family!r}, {self.kv_heads} of {self.heads}")

    def describe(self) -> dict:
        """The shape as plain data: what its run is addressed by.

        Fields that came after the first runs are left out at their defaults, so that old addresses stay.
        """
        later = {each.name: each.default for each in fields(self)[-3:]}
        return {name: value for name, value in vars(self).items() if value != later.get(name)}


@dataclass(frozen=True)
class Teachers:
    """What Table 10 compares, each as in `Scale.teacher`.

    own: the one whose core the student has. larger: of own's family and tokenizer. other: of another family, with
    another tokenizer.
    """

    own: TeacherShape | str
    larger: TeacherShape | str
    other: TeacherShape | str


@dataclass(frozen=True)
class Ablation:
    """What each row of an ablation gets: bytes a step, rows an update, items a column, seeds of the student.

    On few bytes small batches learn more. One teacher serves all seeds. heldout_bytes: held-out text per corpus for
    bits per byte, less than the scale's since there are many students.
    """

    step_bytes: int
    batch_rows: int
    items: int
    seeds: int
    heldout_bytes: int = 20_000


@dataclass(frozen=True)
class Scale:
    """One setting of the dial.

    teacher: sizes of one trained here, or the folder or hub name of any Llama, Qwen3 or OLMo2 model.
    corpora: (name, bytes of training text), mixed; heldout_bytes: held-out text per corpus for bits per byte.
    row_bytes, batch_rows: bytes per row, rows per update. student: StudentConfig's arguments.
    stage1, stage2: arguments of the functions of that name in distill/steps.py. precision: "fp32", or "bf16" autocast.
    streamed: read the corpora while training, instead of packing them all before. rows_at_once: rows of a micro-batch
    in each process unless told otherwise, None: all.
    items: MiniBench items per column; dynamics_items: items per column for the many models of Figure 2. ablation: what
    the many students of the ablations get. teachers: those of Table 10. continues: the scale whose teacher this one's
    continues, with its tokenizer, None: it starts from new weights.
    """

    name: str
    teacher: TeacherShape | str
    corpora: tuple[tuple[str, int], ...]
    heldout_bytes: int
    row_bytes: int
    batch_rows: int
    student: Mapping[str, int]
    stage1: Mapping[str, float]
    stage2: Mapping[str, float]
    items: int
    dynamics_items: int
    ablation: Ablation
    teachers: Teachers
    device: str = "cpu"
    streamed: bool = False
    rows_at_once: int | None = None
    continues: "Scale | None" = None
    precision: str = "fp32"


KB, MB, GB = 10**3, 10**6, 10**9
DEVICE = "DBYTE_DEVICE"  # the variable that names the device in place of the scale's

TEACHERS = {  # hub names of the teachers that the paper and its readers use, each at the revision meant here
    "meta-llama/Llama-3.2-1B": "4e20de362430cd3b72f300e6b0f18e50e7166e08",
    "meta-llama/Llama-3.2-3B": "13afe5124825b4f3751f836b40dafda64c1ed062",
    "Qwen/Qwen3-0.6B": "c1899de289a04d12100db370d81485cdf75e47ca",
    "Qwen/Qwen3-4B": "1cfa9a7208912126459214e8b04321603b3df60c",
    "allenai/OLMo-2-0425-1B": "a1847dff35000b4271fa70afc5db10fd29fedbdf",
}

FINEWEB = "hub:HuggingFaceFW/fineweb@9bb295ddab0e05d785b879661af7260fed5140fc"
PAPER_SIZES = dict(byte_width=1536, encoder_layers=4, decoder_layers=4, ffn_width=8192, state_size=128, chunk_size=256)

SMOKE_TEACHER = TeacherShape(
    vocabulary=1024, width=64, layers=2, heads=2, ffn_width=192, train_bytes=1200 * KB, rate=5e-3,
    tokenizer_corpora=("world",))
SMALL_TEACHER = TeacherShape(
    vocabulary=1024, width=128, layers=4, heads=4, ffn_width=352, train_bytes=14 * MB, rate=5e-3,
    tokenizer_corpora=("world",))
OWN_TEXT = "file:text"  # a folder in the working directory or the project's root that the user fills
GPU_TEACHER = TeacherShape(
    vocabulary=8192, width=640, layers=9, heads=10, ffn_width=1792, train_bytes=42 * MB, rate=2e-3, initial_std=0.02,
    positions=4096)
OTHER_FAMILY = dict(family="qwen3", vocabulary=2048, tokenizer_corpora=())  # its tokenizer reads prose too

SCALES = {
    "smoke": Scale(
        name="smoke",
        teacher=SMOKE_TEACHER,
        corpora=(("world", 700 * KB), ("pydocs", 300 * KB)), heldout_bytes=20 * KB, row_bytes=1024, batch_rows=8,
        student=dict(byte_width=64, encoder_layers=2, decoder_layers=1, ffn_width=128, state_size=32, head_width=32,
                     router_ffn_width=128),
        stage1=dict(align_bytes=300 * KB, distill_bytes=200 * KB, boundary_bytes=100 * KB, align_rate=4e-3,
                    encoder_rate=2e-3, core_rate=5e-4, align_muon=0.03, encoder_muon=0.003, boundary_muon=0.05,
                    boundary_floor=0.0, boundary_loss=True, snapshots=1),
        stage2=dict(head_bytes=150 * KB, full_bytes=150 * KB, head_rate=4e-3, outer_rate=1e-3, core_rate=3e-4,
                    boundary_loss=True),
        items=24, dynamics_items=24, ablation=Ablation(40 * KB, 2, 12, 2),
        teachers=Teachers(SMOKE_TEACHER, replace(SMOKE_TEACHER, width=96, layers=3, heads=3, ffn_width=288),
                          replace(SMOKE_TEACHER, kv_heads=1, **OTHER_FAMILY)),
    ),
    "small": Scale(
        name="small",
        teacher=SMALL_TEACHER,
        corpora=(("world", 8 * MB), ("pydocs", 5 * MB)), heldout_bytes=100 * KB, row_bytes=1024, batch_rows=8,
        student=dict(byte_width=128, encoder_layers=2, decoder_layers=2, ffn_width=256, state_size=32, head_width=64,
                     router_ffn_width=512),
        stage1=dict(align_bytes=4 * MB, distill_bytes=3 * MB, boundary_bytes=6 * MB, align_rate=4e-3, encoder_rate=5e-4,
                    core_rate=2e-4, align_muon=0.03, encoder_muon=0.003, boundary_muon=0.05, boundary_floor=0.0,
                    boundary_loss=True, snapshots=3),
        stage2=dict(head_bytes=2 * MB, full_bytes=3 * MB, head_rate=3e-3, outer_rate=1e-3, core_rate=2e-4,
                    boundary_loss=True),
        items=500, dynamics_items=200, ablation=Ablation(600 * KB, 2, 200, 3),
        teachers=Teachers(SMALL_TEACHER, replace(SMALL_TEACHER, width=192, layers=6, heads=6, ffn_width=528),
                          replace(SMALL_TEACHER, kv_heads=2, **OTHER_FAMILY)),
    ),
    "gpu": Scale(
        name="gpu",
        teacher=GPU_TEACHER,
        corpora=(("world_full", 12 * MB), (OWN_TEXT, 15 * MB)), heldout_bytes=150 * KB, row_bytes=4096, batch_rows=16,
        student=dict(byte_width=512, encoder_layers=3, decoder_layers=3, ffn_width=1024, state_size=64, head_width=64,
                     chunk_size=128, router_ffn_width=512),
        stage1=dict(align_bytes=12 * MB, distill_bytes=12 * MB, boundary_bytes=6 * MB, align_rate=2e-3,
                    encoder_rate=5e-4, core_rate=1e-4, align_muon=0.02, encoder_muon=0.003, boundary_muon=0.02,
                    boundary_floor=0.0, boundary_loss=True, snapshots=1),
        stage2=dict(head_bytes=6 * MB, full_bytes=14 * MB, head_rate=2e-3, outer_rate=5e-4, core_rate=1e-4,
                    boundary_loss=True),
        items=250, dynamics_items=50, ablation=Ablation(4 * MB, 8, 200, 3),
        teachers=Teachers(GPU_TEACHER, replace(GPU_TEACHER, width=768, layers=12, heads=12, ffn_width=2048),
                          replace(GPU_TEACHER, kv_heads=5, family="qwen3", vocabulary=16384)),
        device="cuda", precision="bf16",
    ),
    "hub": Scale(
        name="hub", teacher="allenai/OLMo-2-0425-1B",
        corpora=((FINEWEB, 6 * GB),), heldout_bytes=2 * MB, row_bytes=8192, batch_rows=32,
        student=PAPER_SIZES,
        stage1=dict(align_bytes=1 * GB, distill_bytes=1 * GB, boundary_bytes=300 * MB, snapshots=3),
        stage2=dict(head_bytes=1 * GB, full_bytes=2 * GB), items=1000, dynamics_items=500,
        ablation=Ablation(500 * MB, 32, 500, 3, 500 * KB),
        teachers=Teachers("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B", "allenai/OLMo-2-0425-1B"),
        device="cuda", streamed=True, rows_at_once=1, precision="bf16",
    ),
    "paper": Scale(
        name="paper", teacher="meta-llama/Llama-3.2-3B",
        corpora=((FINEWEB, 125 * GB),), heldout_bytes=10 * MB, row_bytes=8192, batch_rows=256,
        student=PAPER_SIZES,
        stage1=dict(align_bytes=10 * GB, distill_bytes=10 * GB, boundary_bytes=10 * GB, encoder_rate=2e-5, snapshots=8),
        stage2=dict(head_bytes=10 * GB, full_bytes=85 * GB), items=1000, dynamics_items=1000,
        ablation=Ablation(10 * GB, 256, 1000, 1, 2 * MB),
        teachers=Teachers("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B", "Qwen/Qwen3-0.6B"),
        device="cuda", streamed=True, rows_at_once=1, precision="bf16",
    ),
}

LOOKING_BACK = dict(  # a teacher for all columns: queries and keys normed, small weights, low rates (docs/log.md)
    family="qwen3", initial_std=0.02, rate=1e-3, muon_rate=0.01, tokenizer_corpora=("world_full",))
WHOLE_WORLD = {  # that teacher's lessons at a scale, (corpora, bytes read): to repeat, to look up, and then the world
    "smoke": (
        ((("echoes", 100 * KB), ("world_full", 500 * KB)), 200 * KB),
        ((("lookups", 100 * KB), ("world_full", 500 * KB)), 100 * KB),
        ((("world_full", 700 * KB), ("pydocs", 100 * KB)), 1000 * KB),
    ),
    "small": (
        ((("echoes", 18 * MB), ("world_full", 500 * KB)), 18 * MB),
        ((("lookups", 8 * MB), ("world_full", 500 * KB)), 8 * MB),
        ((("world_full", 20 * MB), ("pydocs", 1500 * KB)), 22 * MB),
    ),
}


def whole_world(scale: Scale) -> Scale:
    """The scale with a corpus that teaches all columns of MiniBench, and a teacher that learns to look back first.

    A scale without lessons here is returned as it is: its teacher comes from elsewhere, or (`gpu`) its own text has the
    whole world next to other text.
    """
    if isinstance(scale.teacher, str) or scale.name not in WHOLE_WORLD:
        return scale
    whole = None
    for corpora, train_bytes in WHOLE_WORLD[scale.name]:
        teacher = replace(scale.teacher, train_bytes=train_bytes, **LOOKING_BACK)
        whole = replace(scale, corpora=corpora, teacher=teacher, continues=whole)
    return whole


def changed(
    scale: Scale, *, teacher: str | None = None, corpora: Mapping[str, int] | None = None,
    ablation_seeds: int | None = None, **values: object
) -> Scale:
    """A scale with another teacher (folder or hub name), other corpora (bytes by name), or other plain fields.

    ablation_seeds: students of each row of an ablation. values: device, precision, batch_rows, row_bytes. None leaves
    a field as it is. Raises ValueError for a number that is not positive or an unknown precision.
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name in ("batch_rows", "row_bytes"):
        if given.get(name, 1) < 1:
            raise ValueError(f"{name} must be at least 1, found {given[name]}")
    if given.get("precision", "fp32") not in ("fp32", "bf16"):
        raise ValueError(f"precision must be fp32 or bf16, found {given['precision']!r}")
    if corpora:
        if wrong := {name: amount for name, amount in corpora.items() if amount < 1}:
            raise ValueError(f"a corpus needs a positive number of bytes, found {wrong}")
        given["corpora"] = tuple(corpora.items())
    if ablation_seeds is not None:
        if ablation_seeds < 1:
            raise ValueError(f"an ablation needs at least one seed, found {ablation_seeds}")
        given["ablation"] = replace(scale.ablation, seeds=ablation_seeds)
    return replace(scale, **given, **({"teacher": teacher} if teacher else {}))


def scale(name: str) -> Scale:
    """Look a scale up, on the device that $DBYTE_DEVICE names (cpu, cuda or cuda:N) or, without it, on its own.

    Raises ValueError naming the choices if there is no scale of that name, or for another word in $DBYTE_DEVICE.
    """
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}: choose one of {', '.join(SCALES)}")
    if not (device := os.environ.get(DEVICE)):
        return SCALES[name]
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"${DEVICE} must be cpu, cuda or cuda:N, found {device!r}: set another or unset it")
    return replace(SCALES[name], device=device)
