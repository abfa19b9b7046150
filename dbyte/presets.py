"""The scales: one dial from a laptop's minutes to the paper's eight GPUs. The numbers of a run are in scales/*.toml.

Each file there is one scale, and so is a file of the user's; here is what that consists of. Importing this needs
neither torch nor transformers.
"""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path

from dbyte.paths import ROOT
from dbyte.scale_file import BUILT_IN, STEP_BYTES, check_numbers, present, read, read_all

FAMILIES = ("llama", "qwen3", "olmo2")  # of teachers: causal language models whose core reads plain embeddings


@dataclass(frozen=True)
class TeacherShape:
    """A teacher trained here: a model of `family` with tied embeddings and a byte-level BPE of `vocabulary` tokens.

    train_bytes: bytes of rows, padding included. rate, muon_rate: peak rates of AdamW and Muon. warmup: share of the
    updates, 0 to 1. kv_heads: heads of keys and values (grouped-query attention), 0: as many as heads. positions: the
    most tokens of a document; with one per byte of a row, any boundaries fit. tokenizer_corpora: corpora that the
    tokenizer is trained on, () or none of the scale's: all. Raises ValueError for sizes that no such model has.
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
        check_numbers(vars(self))
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be an even multiple of heads, found {self.width} and {self.heads}")
        if self.family not in FAMILIES or self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"a teacher needs a family of {', '.join(FAMILIES)} and kv_heads that divide its heads; "
                             f"found {self.family!r}, {self.kv_heads} of {self.heads}")

    def describe(self) -> dict:
        """The shape as plain data, which is part of the address of its run.

        Fields that are newer than the first runs are left out at their defaults, so that old addresses stay.
        """
        later = {each.name: each.default for each in fields(self)[-3:]}
        return {name: value for name, value in vars(self).items() if value != later.get(name)}


@dataclass(frozen=True)
class Teachers:
    """What Table 10 compares, each as in `Scale.teacher`.

    own: whose core the student has. larger: of the same family and tokenizer. other: of another family. sizes: of one
    family and tokenizer in ascending size, in place of the first two where there are any. ValueError for one size.
    """

    own: TeacherShape | str
    larger: TeacherShape | str
    other: TeacherShape | str
    sizes: tuple[TeacherShape | str, ...] = ()

    def __post_init__(self):
        if len(self.sizes) == 1:
            raise ValueError("teachers: sizes compares several, found one")


@dataclass(frozen=True)
class Ablation:
    """What each row of an ablation gets: bytes per step, rows per update, items per column, seeds of the student.

    On few bytes small batches learn more. All seeds have the same teacher. heldout_bytes: held-out text per corpus for
    bits per byte, less than the scale's since there are many students.
    """

    step_bytes: int
    batch_rows: int
    items: int
    seeds: int
    heldout_bytes: int = 20_000
    doses: tuple[float, ...] = (1.5, 5.0, 15.0, 65 / 3)  # bytes of each student of a dose response, in step_bytes
    encoder_doses: tuple[float, ...] = (1.0, 20 / 3, 50 / 3)  # bytes of each encoder that is compared, in step_bytes
    router_doses: tuple[float, ...] = (1 / 3, 1.0, 3.0)  # bytes of step 1.3 for each router, in step_bytes
    recipe_share: float = 1.0  # of the main budget, for each recipe of notebook 20
    budgets: tuple[float, ...] = (5 / 3, 5.0, 15.0, 100 / 3)  # bytes of each recipe that is compared, in step_bytes

    def __post_init__(self):
        check_numbers(vars(self))


@dataclass(frozen=True)
class OnPolicy:
    """What on-policy distillation trains on (section 5.3): whose completions of which prompts, and how many.

    prompts: as in `distill/prompts.py`. most: how many of them at most. rows: prompts of an update. prompt_bytes: a
    longer one is left out. new_bytes: of a completion at most. rate: peak learning rate of all of Stage 1. temperature:
    of the draws, 0: the likeliest tokens. chat: prompts are turns of a user, under the teacher's chat template.
    teacher_share, corpus_share: the share of rows that the teacher wrote, and of rows of corpus text; the student
    writes the rest. Raises ValueError for a number out of range, or shares that are not whole rows.
    """

    prompts: str
    most: int
    rows: int
    updates: int
    prompt_bytes: int
    new_bytes: int
    rate: float
    temperature: float = 1.0
    chat: bool = False
    teacher_share: float = 0.0
    corpus_share: float = 0.0

    def __post_init__(self):
        check_numbers(vars(self))
        if self.teacher_share + self.corpus_share > 1:
            raise ValueError(f"teacher_share and corpus_share are parts of one, found {self.teacher_share} and "
                             f"{self.corpus_share}")
        if any(share * self.rows % 1 for share in (self.teacher_share, self.corpus_share)):
            raise ValueError(f"teacher_share and corpus_share must give whole rows of {self.rows}, found "
                             f"{self.teacher_share} and {self.corpus_share}")

    @property
    def row_bytes(self) -> int:
        """Bytes of the longest row: BOS, prompt, completion and EOS."""
        return self.prompt_bytes + self.new_bytes + 2


@dataclass(frozen=True)
class Scale:
    """One setting of the dial.

    teacher: sizes of one trained here, or the folder or hub name of any Llama, Qwen3 or OLMo2 model. corpora: (name,
    bytes of training text), mixed; heldout_bytes: held-out text per corpus for bits per byte. row_bytes, batch_rows:
    bytes per row, rows per update. student: StudentConfig's arguments. stage1, stage2: arguments of the functions of
    that name in distill/steps.py. precision: "fp32", or "bf16" autocast. streamed: read the corpora while training,
    instead of packing them all before. rows_at_once: rows of a micro-batch in each process (Launch may change it),
    None: all. items: MiniBench items per column; dynamics_items: items per column for the many models of Figure 2.
    ablation: what the many students of the ablations get. teachers: those of Table 10, None: there are none. continues:
    the scale whose teacher this one's continues, with its tokenizer, None: it starts from new weights. benchmarks:
    columns of the paper that are measured on real items, of which no training text may hold one (contamination.py).
    whole_world: what `whole_world` changes, None: nothing. on_policy: of Table 2, None: there is none. Raises
    ValueError for a number out of its range, steps without bytes, or an unknown precision or device.
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
    teachers: Teachers | None = None
    device: str = "cpu"
    streamed: bool = False
    rows_at_once: int | None = None
    continues: "Scale | None" = None
    precision: str = "fp32"
    whole_world: Mapping[str, object] | None = None
    benchmarks: tuple[str, ...] = ()
    on_policy: OnPolicy | None = None

    def __post_init__(self):
        check_numbers(vars(self))
        check_numbers((self.whole_world or {}).get("teacher", {}), "whole_world: teacher: ")
        for table in ("student", "stage1", "stage2"):
            check_numbers(getattr(self, table), f"{table}: ")
        for table, names in STEP_BYTES.items():
            if missing := [name for name in names if name not in getattr(self, table)]:
                raise ValueError(f"{table} lacks {', '.join(missing)}")
        if not self.corpora:
            raise ValueError("corpora must name at least one corpus")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be cpu, cuda or cuda:N, found {self.device!r}: change it where it is named, "
                             f"in the scale, by --device or in ${DEVICE}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, found {self.precision!r}")

    def other_teachers(self) -> Teachers:
        """`teachers`; ValueError if the scale names none."""
        if self.teachers is None:
            raise ValueError(f"scale {self.name} names no other teachers, which Table 10 compares: give its file a "
                             "table [teachers] with own, larger and other")
        return self.teachers


DEVICE = "DBYTE_DEVICE"  # the variable that names the device in place of the scale's
# The teachers that the paper and its readers use: revisions on the hub, and configs.
PUBLISHED = tomllib.loads(files("dbyte").joinpath("teachers.toml").read_text(encoding="utf-8"))
TEACHERS = {name: one["revision"] for name, one in PUBLISHED.items() if "revision" in one}

SCALES = {one.name: one for one in read_all(Scale, TeacherShape)}
PAPER_SIZES = SCALES["paper"].student


def whole_world(scale: Scale) -> Scale:
    """The scale with a corpus that teaches all columns of MiniBench, and a teacher that learns to look back first.

    A scale without lessons in its file, or with a teacher from elsewhere, is returned as it is.
    """
    if isinstance(scale.teacher, str) or not scale.whole_world:
        return scale
    whole = None
    for lesson in scale.whole_world["lessons"]:
        teacher = replace(scale.teacher, train_bytes=lesson.train_bytes, **scale.whole_world["teacher"])
        whole = replace(scale, corpora=lesson.corpora, teacher=teacher, continues=whole)
    return whole


def changed(
    scale: Scale, *, teacher: str | None = None, corpora: Mapping[str, int] | None = None,
    ablation_seeds: int | None = None, **values: object
) -> Scale:
    """A scale with another teacher (folder or hub name), other corpora (bytes by name), or other plain fields.

    ablation_seeds: students of each row of an ablation. values: device, precision, batch_rows, row_bytes. None leaves
    a field as it is. Raises ValueError as `Scale` does.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if teacher:
        given["teacher"] = teacher
    if corpora:
        given["corpora"] = tuple(corpora.items())
    if ablation_seeds is not None:
        given["ablation"] = replace(scale.ablation, seeds=ablation_seeds)
    return replace(scale, **given)


def scale(name: str, settings: Sequence[str] = ()) -> Scale:
    """Look a scale up, on the device that $DBYTE_DEVICE names (cpu, cuda or cuda:N) or, without it, on its own.

    name: of a built-in scale, or the path of a file NAME.toml that says one, or what differs from the built-in scale in
    its line `base = "small"`. A relative path starts at the working directory or the project's root. settings: changes
    such as "stage1.align_bytes=20e6"; a scale with settings is named after them too, so that its results are its own.

    Raises ValueError for an unknown name or field, which tells the choices, for a value of another type or an
    impossible size, for a file with a built-in scale's name, and for another device in $DBYTE_DEVICE;
    FileNotFoundError for a missing file.
    """
    if name in SCALES and not settings:
        found = SCALES[name]
    else:
        found = read(BUILT_IN[name] if name in BUILT_IN else _file(name), Scale, TeacherShape, tuple(settings))
    found = replace(found, corpora=present(found.corpora, found.name))
    if found.name not in SCALES and isinstance(found.teacher, str):
        found = replace(found, teacher=str(_place(found.teacher) or found.teacher))
    return replace(found, device=os.environ.get(DEVICE) or found.device)


def _place(path: str) -> Path | None:
    """The absolute path of what lies there, seen from the working directory or else from the root; None: nothing."""
    places = (Path(path).expanduser(), ROOT / path)
    return next((place.resolve() for place in places if place.exists()), None)


def _file(name: str) -> Path:
    """The path of the user's file NAME.toml; ValueError and FileNotFoundError as `scale` says."""
    if not name.endswith(".toml"):
        raise ValueError(f"unknown scale {name!r}: choose one of {', '.join(SCALES)}, or a file such as my_run.toml")
    path = _place(name)
    if path is None or not path.is_file():
        raise FileNotFoundError(f"no file {name!r} (working directory {Path.cwd()}, root {ROOT}): "
                                "`python -m dbyte scales show small` prints one to begin with")
    if path.stem in SCALES or not re.fullmatch(r"\w[\w.-]*", path.stem):
        raise ValueError(f"{path.name} would write to results/{path.stem}: rename the file, to a name of letters, "
                         f"digits, '.', '_' and '-' that is no built-in scale's ({', '.join(SCALES)})")
    return path
