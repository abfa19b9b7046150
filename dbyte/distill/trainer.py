"""The training loop: one for the teacher and for every step of the curriculum.

    batch -> objective -> backward -> clip -> AdamW at the scheduled rate -> log -> maybe save

A run that is killed at any moment and started again ends with the same weights and the same metrics (but for their
seconds), bit for bit on one machine: model, optimiser moments, update number (which fixes schedule and data) and the
random state are in the checkpoint. Row order is a seeded permutation per pass, a pure function of the cursor.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from dbyte.atomic import atomic_write
from dbyte.distill.runs import Run, write_json, written_whole
from dbyte.distill.steps import Step
from dbyte.memory import keep_freed_memory
from dbyte.text.packing import Batch, Rows

CHECKPOINT_SECONDS = 60.0
WINDOW = 16
LOG_LINES = 200  # about how many lines a run's metrics.jsonl has


@dataclass(frozen=True)
class Feed:
    """Which rows an update sees: `batch_rows` rows an update, starting `first_row` rows into the seeded order.

    Rows hold equal bytes but unequal tokens, and a batch is padded to its longest. So, if `grouped`, inside a window of
    WINDOW batches rows of similar token counts go together, which saves core work on mixed text.
    """

    rows: Rows
    batch_rows: int
    seed: int
    first_row: int = 0
    grouped: bool = True
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def batch(self, update: int) -> Batch:
        """The batch of an update (0, 1, ...), whatever came before it."""
        wanted = self.first_row + update * self.batch_rows + np.arange(self.batch_rows)
        passes, places = np.divmod(wanted, len(self.rows))
        return self.rows.batch(np.array([self._order(int(p))[i] for p, i in zip(passes, places, strict=True)]))

    def _order(self, number: int) -> np.ndarray:
        """The order of all rows in a pass, int64 [R]."""
        if number not in self._orders:
            rng, tokens_R = np.random.default_rng([self.seed, number]), (self.rows.token_ids >= 0).sum(1)
            shuffled, size = rng.permutation(len(self.rows)), WINDOW * self.batch_rows
            windows = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
            self._orders[number] = shuffled if not self.grouped else np.concatenate(
                [self._by_tokens(w[np.argsort(tokens_R[w], kind="stable")], rng) for w in windows])
        return self._orders[number]

    def _by_tokens(self, sorted_rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Batches of neighbours in a seeded order; a last batch that is not full stays last."""
        whole = len(sorted_rows) // self.batch_rows
        batches = sorted_rows[: whole * self.batch_rows].reshape(whole, self.batch_rows)
        return np.concatenate([batches[rng.permutation(whole)].ravel(), sorted_rows[whole * self.batch_rows :]])

    def updates(self, train_bytes: int) -> int:
        """Updates that consume a byte budget, padding included; at least one."""
        return max(round(train_bytes / (self.batch_rows * self.rows.row_bytes)), 1)


def train(
    run: Run, step: Step, feed: Feed, *, model: PreTrainedModel, teacher: PreTrainedModel | None = None,
    device: str = "cpu", save_extra: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Train `model` by one step, resuming the run's checkpoint if there is one, and complete the run.

    Args:
        save_extra: writes what else belongs into a model folder (the tokenizer of a teacher).
    Raises:
        FloatingPointError: if loss or gradient is not finite; the update's number is in the message, nothing is saved.
    """
    keep_freed_memory()
    with run.locked():
        if run.is_complete():  # another process finished it while this one waited to begin
            return
        model, teacher = model.to(device).train(), teacher.to(device).eval() if teacher is not None else None
        optimisers = step.optimisers(model)
        updates, first, seconds = feed.updates(step.train_bytes), *_resume(run, model, optimisers)
        _announce(step, model, updates, first)
        log, saved, started = _Log(run, step, updates, first), time.monotonic(), time.monotonic() - seconds
        for update in range(first, updates):
            batch = feed.batch(update).to(device)
            loss, norm, rate = train_on(batch, step, step.rate_at(update, updates), model, teacher, optimisers, update)
            log.write(update, loss=loss, norm=norm, rate=rate, seconds=time.monotonic() - started,
                      train_bytes=(update + 1) * batch.byte_ids_BL.numel())
            done = update + 1
            if done in snapshot_updates(step, updates):
                with written_whole(run.folder / "snapshots" / str(done * batch.byte_ids_BL.numel())) as folder:
                    model.save_pretrained(folder)
                    save_extra(folder)
            if time.monotonic() - saved > CHECKPOINT_SECONDS and done < updates:
                _checkpoint(run, model, optimisers, done, time.monotonic() - started)
                saved = time.monotonic()
        log.close()
        _finish(run, step, feed, model.eval(), updates, time.monotonic() - started, save_extra)


def snapshot_updates(step: Step, updates: int) -> set[int]:
    """After how many updates a copy of the model is kept."""
    return {round(updates * k / (step.snapshots + 1)) for k in range(1, step.snapshots + 1)} - {0, updates}


def train_on(
    batch: Batch, step: Step, share: float, model: nn.Module, teacher: nn.Module | None,
    optimisers: list[torch.optim.Optimizer], update: int,
) -> tuple[float, float, float]:
    """One update at `share` of the peak rates; returns (mean loss, gradient norm before clipping, first group's rate).

    update: its number, for the message of FloatingPointError if loss or gradient is not finite.
    """
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    for group in groups:
        group["lr"] = group["peak"] * share
    total, count = step.objective(model, teacher, batch)
    loss = total / count.clamp(min=1)
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_([weight for group in groups for weight in group["params"]], step.clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise FloatingPointError(f"step {step.name!r}, update {update}: loss {loss.item()}, gradient norm "
                                 f"{norm.item()}: lower the rate of this step, or look at the rows of this update "
                                 "(Feed.batch)")
    for optimiser in optimisers:
        optimiser.step()
    return loss.item(), norm.item(), groups[0]["lr"]


def _announce(step: Step, model: nn.Module, updates: int, first: int) -> None:
    """Say what trains, what is frozen, and whether the run resumes."""
    trained = {name: sum(w.numel() for w in part.parameters() if w.requires_grad)
               for name, part in model.named_children()}
    frozen = [name for name, part in model.named_children()
              if trained[name] == 0 and any(True for _ in part.parameters())]
    groups = ", ".join(f"{'+'.join(part or 'all' for part in g.parts)} at {g.rate:g}"
                       + (f", matrices by Muon at {g.muon_rate:g}" if g.muon_rate else "") for g in step.groups)
    resumed = f", resumed at {first}" if first else ""
    print(f"{step.name}: {updates} updates{resumed}; trains {groups} ({sum(trained.values()):,} parameters); "
          f"frozen: {', '.join(frozen) or 'nothing'}", flush=True)


class _Log:
    """metrics.jsonl, and a bar on a terminal or notebook, or a line now and then elsewhere."""

    def __init__(self, run: Run, step: Step, updates: int, first: int):
        kept = run.metrics_path.read_text().splitlines() if first and run.metrics_path.exists() else []
        whole = [line for line in kept if line.endswith("}") and json.loads(line)["update"] < first]
        atomic_write(run.metrics_path, "".join(line + "\n" for line in whole))
        self.file = run.metrics_path.open("a", encoding="utf-8", buffering=1)  # a killed run keeps what it logged
        self.every, self.updates, self.name = max(updates // LOG_LINES, 1), updates, step.name
        self.bar = tqdm(total=updates, initial=first, desc=step.name, unit="update", mininterval=1,
                        disable="ipykernel" in sys.modules or not sys.stderr.isatty())  # a notebook gets plain lines

    def write(self, update: int, *, loss: float, norm: float, rate: float, seconds: float, train_bytes: int) -> None:
        """Log one update (every few, and the last)."""
        self.bar.update()
        if update % self.every and update + 1 != self.updates:
            return
        line = {"update": update, "bytes": train_bytes, "loss": loss, "norm": norm, "rate": rate,
                "seconds": round(seconds, 3)}
        self.file.write(json.dumps(line) + "\n")
        self.bar.set_postfix(loss=f"{loss:.4g}", rate=f"{rate:.1e}", refresh=False)
        if self.bar.disable and (update // self.every) % (LOG_LINES // 10) == 0:
            left = seconds / (update + 1) * (self.updates - update - 1)
            print(f"  {self.name}: {update + 1}/{self.updates}, loss {loss:.4g}, "
                  f"{train_bytes / max(seconds, 1e-9):,.0f} bytes/s, {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Flush to disk."""
        self.file.close()
        self.bar.close()


def _checkpoint(
    run: Run, model: nn.Module, optimisers: list[torch.optim.Optimizer], update: int, seconds: float
) -> None:
    """Save all that an exact resume needs; written whole or not at all."""
    moments = {f"{place}.{index}.{name}": value for place, optimiser in enumerate(optimisers)
               for index, state in optimiser.state_dict()["state"].items() for name, value in state.items()}
    with written_whole(run.checkpoint_folder) as folder:
        save_file({name: value.contiguous() for name, value in _weights(model).items()}, folder / "model.safetensors")
        save_file({name: value.contiguous() for name, value in moments.items()}, folder / "optimiser.safetensors")
        save_file({"torch": torch.get_rng_state()}, folder / "random.safetensors")
        write_json(folder / "state.json", {"update": update, "seconds": seconds})


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by name, tied ones once."""
    return {name: weight.detach() for name, weight in model.named_parameters()}


def _resume(run: Run, model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    """Load the checkpoint into model and optimisers; returns (updates done, seconds spent), zeros without one."""
    folder = run.sound_checkpoint()
    if folder is None:
        return 0, 0.0
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        saved = load_file(folder / "model.safetensors")
        for name, weight in model.named_parameters():
            weight.copy_(saved[name])
    moments: list[dict[int, dict]] = [{} for _ in optimisers]
    for name, value in load_file(folder / "optimiser.safetensors").items():
        place, index, field = name.split(".", 2)
        moments[int(place)].setdefault(int(index), {})[field] = value
    for optimiser, state_of in zip(optimisers, moments, strict=True):
        optimiser.load_state_dict(optimiser.state_dict() | {"state": state_of})
    torch.set_rng_state(load_file(folder / "random.safetensors")["torch"])
    return state["update"], state["seconds"]


def _finish(
    run: Run, step: Step, feed: Feed, model: PreTrainedModel, updates: int, seconds: float,
    save_extra: Callable[[Path], None],
) -> None:
    """Save the model and complete the run."""
    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        save_extra(folder)

    trained_bytes = updates * feed.batch_rows * feed.rows.row_bytes
    run.complete(save, facts={"step": step.name, "updates": updates, "train_bytes": trained_bytes,
                              "seconds": round(seconds, 1), "next_row": feed.first_row + updates * feed.batch_rows})
