"""The training loop: one for the teacher and for every step of the curriculum, in one process or in many.

    batch -> micro-batches -> objective -> backward -> clip -> optimisers at the scheduled rate -> log -> maybe save

A run that is interrupted or killed at any moment and started again ends with the same weights and the same metrics (but
for their seconds), bit for bit on one machine's CPU: see checkpoint.py and interrupts.py. How it is computed
(processes, sharding, micro-batches) changes no more than the order of sums, and may change when a run resumes. A GPU
adds up some gradients in no fixed order, killed or not.

Shape letters: B rows, L bytes, K micro-batches, T terms of the objective.
"""

import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.distill.checkpoint import State
from dbyte.distill.interrupts import noted_interrupts
from dbyte.distill.loader import Feed, StreamFeed
from dbyte.distill.objectives import Objective, mean
from dbyte.distill.processes import ALONE, Launch, full_tensor
from dbyte.distill.progress import ProgressLog
from dbyte.distill.runs import Run
from dbyte.distill.steps import Step, check_sharding
from dbyte.kernels.fast import fast_products
from dbyte.memory import keep_freed_memory
from dbyte.model.backends import training_backend
from dbyte.model.checkpointing import checkpoint_activations, halve, sharding_units, share_frozen
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Batch

CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at least
CHECKPOINT_SHARE = 0.05  # of a run's time that checkpoints take, at most
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class Update(NamedTuple):
    """The mean loss of one update over all processes, the gradient norm before clipping, and the mean of each term."""

    loss: float
    norm: float
    terms: tuple[float, ...] = ()

    def is_finite(self) -> bool:
        """True if neither is infinite or not a number."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Trainee(nn.Module):
    """What DDP and FSDP2 wrap: from a batch to the sums of an objective, under autocast if precision is bf16.

    """

    def __init__(self, model: nn.Module, teacher: nn.Module | None, objective: Objective, precision: str = "fp32"):
        super().__init__()
        self.model = model
        self.objective = objective
        self._teacher = (teacher,)  # in a tuple, not a submodule: nothing of it is trained, sharded or saved
        self.half = PRECISIONS[precision]

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """The weighted sum of each term over the batch, fp32 scalars."""
        kind = batch.byte_ids_BL.device.type
        with torch.autocast(kind, self.half) if self.half else nullcontext():
            return self.objective.sums(self.model, self._teacher[0], batch)


def train(
    run: Run, step: Step, feed: Feed | StreamFeed, *, model: PreTrainedModel, teacher: nn.Module | None = None,
    device: str = "cpu", precision: str = "fp32", launch: Launch = ALONE,
    save_extra: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Train `model` by one step, resuming the run's checkpoint if there is one, and complete the run.

    If another process trains the run, wait for it; then the run is complete, or it is resumed here.

    Args:
        teacher: what the step's objective or its feed reads; it is moved to the device. None if they read nothing.
        device: where to train; one of several processes trains on its own.
        precision: "fp32", or "bf16": autocast, with fp32 weights, losses, norms and SSD states.
        save_extra: writes what else belongs into a model folder (the tokenizer of a teacher).
    Raises:
        FloatingPointError: if loss or gradient is not finite; the batch and where it came from are saved, the model is
            not.
        KeyboardInterrupt: for Ctrl-C, after the update and a checkpoint.
        ValueError: if the processes cannot share the rows of an update, and as `check_sharding`, `training_backend`.
    """
    processes = launch.processes
    check_sharding((step,), processes.sharding)
    if processes.count > 1:
        device = processes.device
    backend = training_backend(launch.backend, device=device, precision=precision)
    keep_freed_memory()
    with run.locked() if processes.is_first else nullcontext():
        processes.wait()
        if processes.of_first(run.is_complete):  # another process finished it in the meantime
            return
        if teacher is not None:
            teacher = teacher.to(device).eval()
            if device != "cpu" and precision == "bf16":
                halve(teacher)
        model = model.to(device).train()
        if isinstance(model, ByteStudent):
            model.use_backend(backend)
        step.thaw(model)
        if isinstance(teacher, PreTrainedModel):
            share_frozen(model, teacher)
        checkpoint_activations(model, launch.recompute)
        trainee = Trainee(model, teacher, step.objective, precision)
        trainee = processes.wrap(trainee, sharding_units(model))
        state = State(run, model, step.optimisers(model), feed, processes, save_extra)
        with noted_interrupts() as interrupts:
            with fast_products() if backend == "fast" else nullcontext():
                _updates(state, step, trainee, launch, backend, interrupts)
            if not interrupts:
                state.finish(step)


def _updates(state: State, step: Step, trainee: nn.Module, launch: Launch, backend: str, interrupts: list[int]) -> None:
    """Run the updates that the state has not seen yet, up to the first interrupt that one of the processes notes."""
    run = state.run
    feed = state.feed
    processes = state.processes
    bytes_an_update = feed.batch_rows * feed.row_bytes
    updates = step.updates(bytes_an_update)
    first = state.resume()
    log = None
    if processes.is_first:
        _announce(step, state.model, updates, first, backend)
        log = ProgressLog(run, step.name, updates, first, tensorboard=launch.tensorboard)
    started = time.monotonic() - state.seconds
    next_save = time.monotonic() + CHECKPOINT_SECONDS
    for update in range(first, updates):
        feed_before = feed.state()
        batch = feed.batch(update, part=processes.rank, parts=processes.count).to(state.device)
        done = train_on(batch, step, step.lr_scale(update, updates), trainee, state.optimisers, launch=launch)
        if not done.is_finite():
            state.stop(step, update, batch, feed_before, loss=done.loss, norm=done.norm)
        state.update = update + 1
        state.seconds = time.monotonic() - started
        if log:
            rates = [group["lr"] for optimiser in state.optimisers for group in optimiser.param_groups]
            log.write(update, loss=done.loss, norm=done.norm, rates=rates, seconds=state.seconds,
                      train_bytes=state.update * bytes_an_update, more={"terms": done.terms} | feed.told)
        if state.update in step.snapshot_updates(updates):
            state.save_snapshot(state.update * bytes_an_update)
        due = processes.is_first and time.monotonic() >= next_save and state.update < updates
        saving, stopping = processes.total(torch.tensor([due, len(interrupts)], device=state.device)).tolist()
        if saving or stopping:
            began = time.monotonic()
            state.save()
            took = time.monotonic() - began
            next_save = time.monotonic() + max(CHECKPOINT_SECONDS, took / CHECKPOINT_SHARE)
        if stopping:
            interrupts += [signal.SIGINT] * (not interrupts)  # another process noted it
            processes.wait()  # until the first has written
            break
    if log:
        log.close()


def train_on(
    batch: Batch, step: Step, lr_scale: float, trainee: nn.Module, optimisers: list[torch.optim.Optimizer], *,
    launch: Launch = ALONE,
) -> Update:
    """One update at `lr_scale` times the peak rates on this process's rows; if it is not finite, weights stay.

    Gradients of micro-batches and processes add up to those of one large batch: each term is divided by its count over
    all of them, which is known before any of them runs.
    """
    processes = launch.processes
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    for group in groups:
        group["lr"] = group["peak"] * lr_scale
    micro_batches = batch.split(launch.rows_at_once)
    counts_KT = torch.stack([torch.stack(step.objective.counts(each)) for each in micro_batches])
    counts_T = processes.total(counts_KT.sum(0))
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=batch.byte_ids_BL.device)
    terms_T = torch.zeros(len(counts_T), device=loss.device)
    for place, each in enumerate(micro_batches):
        with processes.deferred(trainee, last=place + 1 == len(micro_batches)):
            # sharding averages the gradients of processes, and they must add up
            sums = trainee(each)
            loss_of_each = mean(sums, tuple(counts_T)) * processes.count
            loss_of_each.backward()
        loss += loss_of_each.detach()
        terms_T += torch.stack([total.detach() for total in sums]) / counts_T.clamp(min=1)
    weights = [weight for group in groups for weight in group["params"]]
    norm = full_tensor(nn.utils.clip_grad_norm_(weights, step.clip)).item()
    done = Update(processes.total(loss).item() / processes.count, norm, tuple(processes.total(terms_T).tolist()))
    if done.is_finite():
        for optimiser in optimisers:
            optimiser.step()
    return done


def _announce(step: Step, model: nn.Module, updates: int, first: int, backend: str) -> None:
    """Print what trains, what is frozen, and whether the run resumes."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)  # tied ones come once
    frozen = [name for name, part in model.named_children()
              if (weights := list(part.parameters())) and not any(weight.requires_grad for weight in weights)]
    groups = []
    for group in step.groups:
        muon = f", matrices by Muon at {group.muon_rate:g}" if group.muon_rate else ""
        lora = f" by adapters of rank {group.lora}" if group.lora else ""
        groups.append(f"{'+'.join(part or 'all' for part in group.parts)}{lora} at {group.rate:g}{muon}")
    resumed = f", resumed at {first}" if first else ""
    mixer = f"; Mamba2 by {backend}" if isinstance(model, ByteStudent) else ""
    print(f"{step.name}: {updates} updates{resumed}; trains {', '.join(groups)} ({trained:,} parameters); "
          f"frozen: {', '.join(frozen) or 'nothing'}{mixer}", flush=True)
