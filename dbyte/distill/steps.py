"""The curriculum as data (paper section 4.2, Table 13): five steps, each a frozen value that the one loop runs.

An ablation is another tuple of steps. A step names what trains and at which peak rate; everything else is frozen, and
the loop proves it by listing both.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import nn

from dbyte.distill import objectives
from dbyte.distill.along_tokens import TERMS, along_tokens
from dbyte.distill.objectives import Objective
from dbyte.model.adapters import ADAPTER, add_adapters
from dbyte.model.student_config import DECODINGS
from dbyte.presets import OnPolicy

ENCODER = ("byte_embedding", "encoder", "encoder_projection")
ROUTER = ("router",)
CORE = ("core",)
DECODER = ("null_E", "residual", "decoder_projection", "decoder", "byte_head", "second_head")
EVERYTHING = ("",)
TARGETS = ("labels", *TERMS)  # of Stage 2
MUON_DECAY = 0.01
NO_DECAY = ("A_log", "dt_bias", "D", "null_E", "embed_tokens.weight", "byte_embedding.weight")


@dataclass(frozen=True)
class Group:
    """Parameters under these module names, trained at one peak learning rate (> 0).

    muon_rate: train the matrices (embeddings not counted) with Muon at this peak rate instead; 0: AdamW for all, as the
    paper does. On few bytes Muon learns more: see docs/log.md. lora: train low-rank adapters of this rank in place of
    the parts, which must be the core; 0: the parts themselves.
    """

    parts: tuple[str, ...]
    rate: float
    muon_rate: float = 0.0
    lora: int = 0


@dataclass(frozen=True)
class Step:
    """One step of the curriculum.

    stage: 1 or 2, 0 for a teacher. objective: what is minimised. groups: what trains. train_bytes: the budget, padding
    included. warmup: the share of updates with a rising rate, in [0, 1]. floor: the final rate over the peak rate, in
    [0, 1]. clip: the largest gradient norm. snapshots: how many evenly spaced copies of the model are kept on the way,
    the final one not counted. grouped: batches of rows with similar token counts, which is faster where the core runs,
    but such a batch is mostly of one corpus. decoding: give the student new byte heads of this kind before the step;
    None: it keeps its own. text: how the training text is transformed first, a name of `data.TRANSFORMS`; None:
    not at all. vocabulary, noisy: shares of the rows, in [0, 1), see mixed_rows.py. policy: samples in place of the
    scale's rows, see on_policy.py. new_core: the student's core begins from new weights. batch_rows: rows of an update,
    0: the scale's.
    Raises ValueError if a value leaves its range.
    """

    name: str
    stage: int
    objective: Objective
    groups: tuple[Group, ...]
    train_bytes: int
    warmup: float
    floor: float = 0.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    snapshots: int = 0
    grouped: bool = True
    decoding: str | None = None
    text: str | None = None
    vocabulary: float = 0.0
    noisy: float = 0.0
    policy: OnPolicy | None = None
    new_core: bool = False
    batch_rows: int = 0

    def __post_init__(self):
        if self.train_bytes <= 0 or not self.groups or any(group.rate <= 0 for group in self.groups):
            rates = ", ".join(f"{group.rate:g} for {' and '.join(group.parts)}" for group in self.groups)
            raise ValueError(f"step {self.name!r} needs a positive byte budget and groups with positive rates; found "
                             f"{self.train_bytes} bytes, rates: {rates or 'none'}")
        if not (0 <= self.warmup <= 1 and 0 <= self.floor <= 1 and self.snapshots >= 0):
            raise ValueError(f"step {self.name!r}: warmup and floor lie in [0, 1], snapshots >= 0; found "
                             f"{self.warmup}, {self.floor}, {self.snapshots}")
        if not (0 <= self.vocabulary < 1 and 0 <= self.noisy < 1 and self.batch_rows >= 0
                and all(group.lora >= 0 for group in self.groups)):
            raise ValueError(f"step {self.name!r}: shares of vocabulary and noisy rows lie in [0, 1), batch_rows and "
                             f"ranks are at least 0; found {self.vocabulary}, {self.noisy}, {self.batch_rows}, "
                             f"{[group.lora for group in self.groups]}")

    def updates(self, bytes_an_update: int) -> int:
        """How many updates the budget pays for, at least one."""
        return max(round(self.train_bytes / bytes_an_update), 1)

    def describe(self) -> dict:
        """The step as plain JSON data, which is part of the address of its run."""
        groups = [_given(group) | {"parts": list(group.parts)} for group in self.groups]
        policy = {"policy": dict(vars(self.policy))} if self.policy else {}
        return _given(self) | {"objective": self.objective.name, "groups": groups, "betas": list(self.betas),
                               "no_decay": list(NO_DECAY), "muon_decay": MUON_DECAY} | policy

    def lr_scale(self, update: int, updates: int) -> float:
        """What the peak rates are multiplied by at an update: linear warm-up to 1, then cosine to the floor."""
        rising = max(round(self.warmup * updates), 1)
        if update < rising:
            return (update + 1) / rising
        progress = (update - rising) / max(updates - rising, 1)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2

    def snapshot_updates(self, updates: int) -> set[int]:
        """After how many updates a copy of the model is kept."""
        return {round(updates * k / (self.snapshots + 1)) for k in range(1, self.snapshots + 1)} - {0, updates}

    def thaw(self, model: nn.Module) -> list[dict[str, nn.Parameter]]:
        """Freeze all of the model except the step's parts; returns the parameters of each group by name.

        Raises ValueError if a group names no parameter of the model.
        """
        for group in self.groups:
            if group.lora:
                add_adapters(model.get_submodule(*group.parts), group.lora)
        model.requires_grad_(False)
        chosen = []
        for group in self.groups:
            weights = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad
                       and any(part == "" or f"{name}.".startswith(f"{part}.") for part in group.parts)
                       and (ADAPTER in name or not group.lora)}
            if not weights:
                parts = [name for name, _ in model.named_children()]
                raise ValueError(f"step {self.name!r} trains {group.parts}, which names no (further) parameter of "
                                 f"{type(model).__name__}; its parts are {parts}")
            for weight in weights.values():
                weight.requires_grad_()
            chosen.append(weights)
        return chosen

    def optimisers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Thaw the step's parts, and return their optimisers; raises as `thaw`.

        Each parameter group knows its `peak` rate. Norms, biases and embeddings do not decay.
        """
        adamw = []
        muon = []
        for group, chosen in zip(self.groups, self.thaw(model), strict=True):
            decaying = {name for name, weight in chosen.items() if weight.ndim > 1 and not name.endswith(NO_DECAY)}
            matrices = sorted(name for name in decaying if group.muon_rate and chosen[name].ndim == 2)
            for decays in (True, False):
                weights = [weight for name, weight in chosen.items()
                           if name not in matrices and (name in decaying) == decays]
                if weights:
                    adamw.append({"params": weights, "peak": group.rate, "weight_decay": self.weight_decay * decays})
            if matrices:
                muon.append({"params": [chosen[name] for name in matrices], "peak": group.muon_rate})
        optimisers: list[torch.optim.Optimizer] = []
        if adamw:
            optimisers.append(torch.optim.AdamW(adamw, lr=0.0, betas=self.betas, fused=True))
        if muon:
            optimisers.append(torch.optim.Muon(muon, lr=0.0, weight_decay=MUON_DECAY))
        return optimisers


# Fields that are later than the first addresses, which stay.
LATER = ("decoding", "text", "vocabulary", "noisy", "lora", "policy", "new_core", "batch_rows")


def _given(value: Step | Group) -> dict:
    """The fields of a step or group, without those of LATER that have their default."""
    return {each.name: getattr(value, each.name) for each in fields(value)
            if each.name not in LATER or getattr(value, each.name) != each.default}


def check_sharding(steps: Iterable[Step], sharding: str) -> None:
    """Raise ValueError if FSDP2 would shard what one of the steps needs in full; call it before anything is loaded."""
    for step in steps:
        if sharding == "fsdp2" and step.policy is not None:
            raise ValueError(f"step {step.name!r} writes its own samples, which needs whole weights: use --sharding "
                             "ddp")
        if sharding == "fsdp2" and any(group.muon_rate or group.lora for group in step.groups):
            raise ValueError(f"step {step.name!r} trains with Muon or adapters, which need whole matrices: use "
                             "--sharding ddp, or a scale that trains with AdamW alone (hub, paper)")


def _core(rate: float, lora: int) -> tuple[Group, ...]:
    """The core at a rate, or no group if that is 0; lora: of adapters in its place."""
    if lora and not rate:
        raise ValueError(f"core_lora = {lora} trains adapters of the core at core_rate, which is 0: set a rate as well")
    return (Group(CORE, rate, lora=lora),) if rate else ()


def stage1(
    *, align_bytes: int, distill_bytes: int, boundary_bytes: int, boundary_loss: bool = False,
    align_rate: float = 1e-3, encoder_rate: float = 1e-3, core_rate: float = 2e-5, boundary_rate: float = 1e-3,
    align_muon: float = 0.0, encoder_muon: float = 0.0, boundary_muon: float = 0.0,
    boundary_floor: float = 0.1, snapshots: int = 0, vocabulary: float = 0.0, noisy: float = 0.0, core_lora: int = 0,
) -> tuple[Step, ...]:
    """Steps 1.1 to 1.3: align, distil, learn the boundaries (section 4.2.1).

    Rates default to Table 13 and section 6.1.

    Args:
        core_rate: of the core in step 1.2; 0 leaves it frozen. core_lora: rank of the adapters that train in its place.
        boundary_loss: steps 1.1 and 1.2 train the router too, by Eq. 4, at the rates of step 1.3.
        align_muon, encoder_muon, boundary_muon: `Group.muon_rate` of step 1.1, of the encoder in step 1.2, and of step
            1.3, whose batches are not grouped: no core runs in it.
        vocabulary, noisy: shares of such rows in step 1.1.
    """
    align = objectives.align_with_boundary if boundary_loss else objectives.align
    distill = objectives.distill_with_boundary if boundary_loss else objectives.distill
    router = (Group(ROUTER, boundary_rate, boundary_muon),)
    routed = router if boundary_loss else ()
    aligned = (Group(ENCODER, align_rate, align_muon), *routed)
    distilled = (Group(ENCODER, encoder_rate, encoder_muon), *_core(core_rate, core_lora), *routed)
    return (
        Step("1.1 align", 1, align, aligned, align_bytes, warmup=0.2, snapshots=snapshots, grouped=not vocabulary,
             vocabulary=vocabulary, noisy=noisy),
        Step("1.2 distill", 1, distill, distilled, distill_bytes, warmup=0.01, floor=0.1, snapshots=snapshots),
        Step("1.3 boundary", 1, objectives.boundary, router, boundary_bytes, warmup=0.1, floor=boundary_floor,
             grouped=False),
    )


def stage2(
    *, head_bytes: int, full_bytes: int, head_rate: float = 1e-3, outer_rate: float = 4e-5, core_rate: float = 2e-5,
    head_muon: float = 0.0, boundary_loss: bool = False, decoding: str | None = None, core_lora: int = 0,
    targets: str = "labels", own_bytes: int = 0, batch_rows: int = 0,
) -> tuple[Step, ...]:
    """Steps 2.1 and 2.2: adapt the byte head, then tune everything (section 4.2.2); rates default to Table 13.

    core_rate: of the core in step 2.2; 0 leaves it frozen. head_muon: `Group.muon_rate` of step 2.1. boundary_loss:
    step 2.2 also trains the router, by Eq. 4, as the authors' code does. decoding: "mbp" replaces the student's byte
    heads by MBP's two (section 4.1.2), "prior" by one that corrects what the token head says (model/token_prior.py).
    core_lora: as in stage1. targets: "labels", the next byte
    along the router's boundaries (the paper), or one of `along_tokens.TERMS`, along the teacher's tokens. own_bytes:
    after these, so many bytes more as in step 2.2 with "labels", so that it trains along the boundaries that it will
    use. batch_rows: of an update of every step; 0: the scale's, as in the paper.
    Raises ValueError for another decoding, or for other targets with "mbp".
    """
    if decoding not in (None, *DECODINGS):
        raise ValueError(f"decoding must be one of {', '.join(DECODINGS)}, found {decoding!r}")
    if targets not in TARGETS or (decoding == "mbp" and targets != "labels"):
        raise ValueError(f"targets must be one of {', '.join(TARGETS)}, and \"labels\" with MBP; found {targets!r}")
    outer = ENCODER + DECODER + (ROUTER if boundary_loss else ())
    head = objectives.head
    full = own = objectives.full_with_boundary if boundary_loss else objectives.full
    if targets != "labels":
        head, full = along_tokens(targets), along_tokens(targets, routed=boundary_loss)
    groups = (Group(outer, outer_rate), *_core(core_rate, core_lora))
    steps = (
        Step("2.1 head", 2, head, (Group(DECODER, head_rate, head_muon),), head_bytes, warmup=0.1, floor=0.1,
             decoding=decoding, batch_rows=batch_rows),
        Step("2.2 full", 2, full, groups, full_bytes, warmup=0.01, floor=0.1, batch_rows=batch_rows),
    )
    if own_bytes:
        steps += (Step("2.2 own", 2, own, groups, own_bytes, warmup=0.01, floor=0.1, batch_rows=batch_rows),)
    return steps
