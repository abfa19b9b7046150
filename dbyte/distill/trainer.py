"""The training loop: one for the teacher and for every step of the curriculum, in one process or in many.

    batch -> micro-batches -> objective -> backward -> clip -> optimisers at the scheduled rate -> log -> maybe save

A run that is killed at any moment and started again ends with the same weights and the same metrics (but for their
seconds), bit for bit on one machine's CPU: model, optimiser moments, update number (which fixes schedule and data) and
the random state are in the checkpoint. How it is computed (processes, sharding, micro-batches) changes no more than the
order of sums, and may change between two sittings. A GPU adds up some gradients in no fixed order, killed or not.
"""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.distill.feed import Feed
from dbyte.distill.objectives import Objective, mean
from dbyte.distill.processes import Processes, like, whole
from dbyte.distill.progress import Progress
from dbyte.distill.runs import Run, write_json, written_whole
from dbyte.distill.sharing import share_frozen
from dbyte.distill.steps import Step
from dbyte.distill.stream import StreamFeed
from dbyte.memory import keep_freed_memory
from dbyte.model.checkpointing import checkpoint_activations, sharding_units
from dbyte.model.mamba2 import Mamba2
from dbyte.text.packing import Batch

CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 60.0, 0.05  # between two, at least; of a run's time, at most
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Launch:
    """How a run is computed, of which its address knows nothing.

    rows_at_once: rows of a micro-batch, None: all of the process's share. recompute: keep no activations inside blocks
    and compute them again in backward. tensorboard: write its files too. backend: of Mamba2 (model/kernels.py),
    None: the best there is for device and precision.
    """

    processes: Processes = Processes()
    rows_at_once: int | None = None
    recompute: bool = False
    tensorboard: bool = False
    backend: str | None = None


def check_sharding(steps: Iterable[Step], sharding: str) -> None:
    """Raise ValueError if FSDP2 would cut what one of the steps needs whole; asked before anything is loaded."""
    for step in steps:
        if sharding == "fsdp2" and any(group.muon_rate for group in step.groups):
            raise ValueError(f"step {step.name!r} trains with Muon, which needs whole matrices: use --sharding ddp, or "
                             "a scale that trains with AdamW alone (hub, paper)")


class Trainee(nn.Module):
    """What DDP and FSDP2 wrap: from a batch to the sums of an objective, under autocast where precision is half."""

    def __init__(self, model: nn.Module, teacher: nn.Module | None, objective: Objective, precision: str = "fp32"):
        super().__init__()
        self.model, self.objective = model, objective
        self._teacher = (teacher,)  # in a tuple it is no submodule: nothing of it is trained, sharded or saved
        self.half = PRECISIONS[precision]

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        kind = batch.byte_ids_BL.device.type
        with torch.autocast(kind, self.half) if self.half else nullcontext():
            return self.objective.sums(self.model, self._teacher[0], batch)


def train(
    run: Run, step: Step, feed: Feed | StreamFeed, *, model: PreTrainedModel, teacher: PreTrainedModel | None = None,
    device: str = "cpu", precision: str = "fp32", launch: Launch | None = None,
    save_extra: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Train `model` by one step, resuming the run's checkpoint if there is one, and complete the run.

    A run that another process trains is waited for, and then found complete or gone on with.

    Args:
        precision: "fp32", or "bf16": autocast, with fp32 weights, losses, norms and SSD states.
        save_extra: writes what else belongs into a model folder (the tokenizer of a teacher).
    Raises:
        FloatingPointError: if loss or gradient is not finite; the batch and where it came from are saved, the model is
            not.
        ValueError: if the processes cannot share the rows of an update; of `check_sharding`.
    """
    launch = launch or Launch()
    check_sharding((step,), launch.processes.sharding)
    processes = launch.processes
    keep_freed_memory()
    with run.locked(wait=True) if processes.is_first else nullcontext():
        processes.wait()
        if processes.gathered(run.is_complete() if processes.is_first else None)[0]:  # finished while this one waited
            return
        if teacher is not None:
            teacher = teacher.to(device).eval()
            if device != "cpu" and precision == "bf16":
                halve(teacher)
        model = model.to(device).train()
        step.thaw(model)
        if teacher is not None:
            share_frozen(model, teacher)
        checkpoint_activations(model, launch.recompute)
        trainee = processes.wrap(Trainee(model, teacher, step.objective, precision), sharding_units(model))
        optimisers = step.optimisers(model)
        updates, (first, seconds) = feed.updates(step.train_bytes), _resume(run, model, optimisers, feed)
        if processes.is_first:
            _announce(step, model, updates, first)
        log = Progress(run, step.name, updates, first, tensorboard=launch.tensorboard) if processes.is_first else None
        next_save, started = time.monotonic() + CHECKPOINT_SECONDS, time.monotonic() - seconds
        for update in range(first, updates):
            where = feed.state()
            batch = feed.batch(update, part=processes.rank, parts=processes.count).to(device)
            made = train_on(batch, step, step.rate_at(update, updates), trainee, optimisers, launch=launch,
                            due=time.monotonic() >= next_save)
            if not made.is_finite():
                _stop(run, step, where, batch, made, update, processes)
            done, seconds = update + 1, time.monotonic() - started
            if log:
                log.write(update, loss=made.loss, norm=made.norm, rates=made.rates, seconds=seconds,
                          train_bytes=done * feed.batch_rows * feed.row_bytes)
            if done in snapshot_updates(step, updates):
                folder = run.folder / "snapshots" / str(done * feed.batch_rows * feed.row_bytes)
                _save_model(model, folder, save_extra, processes)
            if made.due and done < updates:
                began = time.monotonic()
                _checkpoint(run, model, optimisers, feed, done, seconds, processes)
                took = time.monotonic() - began
                next_save = time.monotonic() + max(CHECKPOINT_SECONDS, took / CHECKPOINT_SHARE)
        if log:
            log.close()
        _finish(run, step, feed, model.eval(), updates, time.monotonic() - started, save_extra, processes)


def halve(teacher: nn.Module) -> None:
    """Turn weights to bf16, and not buffers: rotary frequencies do not survive fewer bits."""
    for weight in teacher.parameters():
        weight.data = weight.data.bfloat16()


def snapshot_updates(step: Step, updates: int) -> set[int]:
    """After how many updates a copy of the model is kept."""
    return {round(updates * k / (step.snapshots + 1)) for k in range(1, step.snapshots + 1)} - {0, updates}


@dataclass(frozen=True)
class Made:
    """One update: the mean loss over all processes, the gradient norm before clipping, each group's rate, and whether
    the first process finds that a checkpoint is due."""

    loss: float
    norm: float
    rates: list[float]
    due: bool

    def is_finite(self) -> bool:
        return self.loss - self.loss == 0 and self.norm - self.norm == 0


def train_on(
    batch: Batch, step: Step, share: float, trainee: nn.Module, optimisers: list[torch.optim.Optimizer], *,
    launch: Launch | None = None, due: bool = False,
) -> Made:
    """One update at `share` of the peak rates on this process's share of the rows; nothing moves if it is not finite.

    Gradients of micro-batches and processes add up to those of one large batch: each term is divided by its count over
    all of them, which is known before.
    """
    launch = launch or Launch()
    processes = launch.processes
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    for group in groups:
        group["lr"] = group["peak"] * share
    parts = batch.split(launch.rows_at_once)
    model = getattr(trainee, "module", trainee).model
    counts_KT = torch.stack([torch.stack(step.objective.counts(model, part)) for part in parts])
    counted_T = processes.total(torch.cat([counts_KT.sum(0), counts_KT.new_tensor([due and processes.is_first])]))
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=batch.byte_ids_BL.device)
    for place, part in enumerate(parts):
        with processes.deferred(trainee, last=place + 1 == len(parts)):
            # sharding averages the gradients of processes, and they must add up
            part_loss = mean(trainee(part), tuple(counted_T[:-1])) * processes.count
            part_loss.backward()
        loss += part_loss.detach()
    weights = [weight for group in groups for weight in group["params"]]
    norm = whole(nn.utils.clip_grad_norm_(weights, step.clip)).item()
    made = Made(processes.total(loss).item() / processes.count, norm, [group["lr"] for group in groups],
                bool(counted_T[-1]))
    if made.is_finite():
        for optimiser in optimisers:
            optimiser.step()
    return made


def _announce(step: Step, model: nn.Module, updates: int, first: int) -> None:
    """Say what trains, what is frozen, and whether the run resumes."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)  # tied ones come once
    frozen = [name for name, part in model.named_children()
              if any(True for _ in part.parameters()) and not any(w.requires_grad for w in part.parameters())]
    groups = ", ".join(f"{'+'.join(part or 'all' for part in g.parts)} at {g.rate:g}"
                       + (f", matrices by Muon at {g.muon_rate:g}" if g.muon_rate else "") for g in step.groups)
    resumed = f", resumed at {first}" if first else ""
    backends = {part.backend for part in model.modules() if isinstance(part, Mamba2)}
    print(f"{step.name}: {updates} updates{resumed}; trains {groups} ({trained:,} parameters); "
          f"frozen: {', '.join(frozen) or 'nothing'}" + "".join(f"; Mamba2 by {name}" for name in backends), flush=True)


def _stop(
    run: Run, step: Step, where: dict, batch: Batch, made: Made, update: int, processes: Processes
) -> None:
    """Save which batch it was, its bytes and documents, and raise FloatingPointError."""
    folder = run.folder / f"not_finite.{processes.rank}"
    with written_whole(folder) as temporary:
        save_file({"byte_ids": batch.byte_ids_BL.cpu(), "document": batch.document_BL.cpu(),
                   "boundary": batch.boundary_BL.cpu()}, temporary / "batch.safetensors")
        write_json(temporary / "where.json", {"step": step.name, "update": update, "process": processes.rank,
                                              "processes": processes.count, "loss": str(made.loss),
                                              "norm": str(made.norm), "feed_before": where})
    processes.wait()  # the launcher ends the others when the first has ended
    raise FloatingPointError(f"step {step.name!r}, update {update}: loss {made.loss}, gradient norm {made.norm}. The "
                             f"weights were not touched by it, and the batch is in {folder}: look at it, or lower the "
                             "rates of this step")


def _save_model(
    model: PreTrainedModel, folder: Path, save_extra: Callable[[Path], None], processes: Processes
) -> None:
    """Save the whole model, in the first process; all must call it, for each may hold a share."""
    options = _whole_state(model, processes)
    if processes.is_first:
        with written_whole(folder) as temporary:
            model.save_pretrained(temporary, **options)
            save_extra(temporary)


def _whole_state(model: nn.Module, processes: Processes) -> dict:
    """What save_pretrained must be given: the whole weights where they are shared out."""
    if processes.sharding != "fsdp2":
        return {}
    return {"state_dict": _gathered(model.state_dict(), processes)}


def _checkpoint(
    run: Run, model: nn.Module, optimisers: list[torch.optim.Optimizer], feed: Feed | StreamFeed, update: int,
    seconds: float, processes: Processes,
) -> None:
    """Save all that an exact resume needs; written whole or not at all. What is frozen comes from the run's parent."""
    weights = _gathered(_trained(model), processes)
    moments = _gathered({f"{place}.{index}.{name}": value for place, optimiser in enumerate(optimisers)
                         for index, state in optimiser.state_dict()["state"].items()
                         for name, value in state.items()}, processes)
    feeds = processes.gathered(feed.state())
    if processes.is_first:
        with written_whole(run.checkpoint_folder) as folder:
            save_file(weights, folder / "model.safetensors")
            save_file(moments, folder / "optimiser.safetensors")
            save_file({"torch": torch.get_rng_state()}, folder / "random.safetensors")
            write_json(folder / "state.json", {"update": update, "seconds": seconds,
                                               "feed": _merged(feeds)})


def _gathered(tensors: dict[str, Tensor], processes: Processes) -> dict[str, Tensor]:
    """Tensors whole on the CPU of the first process, one after the other: no GPU holds more than one of them whole."""
    found = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if processes.is_first:
            found[name] = tensor.cpu().contiguous()
    return found


def _merged(feeds: list[dict]) -> dict:
    """The states of all processes' lanes in one."""
    return {lane: state for each in feeds for lane, state in each.items()}


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, tied ones once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _resume(
    run: Run, model: nn.Module, optimisers: list[torch.optim.Optimizer], feed: Feed | StreamFeed
) -> tuple[int, float]:
    """Load the checkpoint into model, optimisers and feed; (updates done, seconds spent), zeros without one."""
    folder = run.sound_checkpoint()
    if folder is None:
        return 0, 0.0
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        saved = load_file(folder / "model.safetensors")
        for name, weight in _trained(model).items():
            weight.copy_(like(saved[name], weight))
    moments: list[dict[int, dict]] = [{} for _ in optimisers]
    for name, value in load_file(folder / "optimiser.safetensors").items():
        place, index, field = name.split(".", 2)
        moments[int(place)].setdefault(int(index), {})[field] = value
    for optimiser, state_of in zip(optimisers, moments, strict=True):
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        shared = {index: {field: like(value, weights[index]) if value.shape == weights[index].shape else value
                          for field, value in fields.items()} for index, fields in state_of.items()}
        optimiser.load_state_dict(optimiser.state_dict() | {"state": shared})
    torch.set_rng_state(load_file(folder / "random.safetensors")["torch"])
    feed.restore(state["feed"], state["update"])
    return state["update"], state["seconds"]


def _finish(
    run: Run, step: Step, feed: Feed | StreamFeed, model: PreTrainedModel, updates: int, seconds: float,
    save_extra: Callable[[Path], None], processes: Processes,
) -> None:
    """Save the model and complete the run."""
    options, feeds = _whole_state(model, processes), processes.gathered(feed.state())

    def save(folder: Path) -> None:
        model.save_pretrained(folder, **options)
        save_extra(folder)

    if processes.is_first:
        run.complete(save, facts={
            "step": step.name, "updates": updates, "train_bytes": updates * feed.batch_rows * feed.row_bytes,
            "seconds": round(seconds, 1), "processes": processes.count,
            "next_row": getattr(feed, "first_row", 0) + updates * feed.batch_rows, "feed": _merged(feeds)})
    feed.close()
    processes.wait()
