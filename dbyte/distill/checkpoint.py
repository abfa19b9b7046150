"""The state of a run in training: saved, resumed exactly, and finished.

A checkpoint holds the weights that train, the optimisers' moments, the number of updates done (which fixes learning
rates and data), the state of the feed and torch's random state. What is frozen comes from the run's parent. Folders are
written in full or not at all (runs.py).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.distill.loader import Feed, StreamFeed
from dbyte.distill.processes import Processes, full_tensor, shard_like
from dbyte.distill.runs import Run, atomic_dir, write_json
from dbyte.distill.steps import Step
from dbyte.memory import peak_bytes
from dbyte.model.adapters import merged_state
from dbyte.text.packing import Batch


@dataclass
class State:
    """What changes while a run trains. All processes call each method, for each may hold a share; the first writes.

    save_extra: writes what else belongs into a model folder. update: updates done. seconds: in all.
    """

    run: Run
    model: PreTrainedModel
    optimisers: list[torch.optim.Optimizer]
    feed: Feed | StreamFeed
    processes: Processes
    save_extra: Callable[[Path], object]
    update: int = 0
    seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the model is, and its batches must be."""
        return next(self.model.parameters()).device

    def save(self) -> None:
        """Write a checkpoint."""
        weights = self._gathered(self._trained())
        moments = self._gathered({
            f"{place}.{index}.{name}": value for place, optimiser in enumerate(self.optimisers)
            for index, state in optimiser.state_dict()["state"].items() for name, value in state.items()})
        feed = self._feed_state()
        if self.processes.is_first:
            needed = sum(tensor.nbytes for tensor in (*weights.values(), *moments.values()))
            with atomic_dir(self.run.checkpoint_folder, needed=needed) as folder:
                save_file(weights, folder / "model.safetensors")
                save_file(moments, folder / "optimiser.safetensors")
                save_file({"torch": torch.get_rng_state()}, folder / "random.safetensors")
                write_json(folder / "state.json", {"update": self.update, "seconds": self.seconds, "feed": feed})

    def resume(self) -> int:
        """Load the run's checkpoint, if there is one; returns the updates done."""
        folder = self.run.sound_checkpoint()
        if folder is None:
            return 0
        saved = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, weight in self._trained().items():
                weight.copy_(shard_like(saved[name], weight))
        self._load_moments(load_file(folder / "optimiser.safetensors"))
        torch.set_rng_state(load_file(folder / "random.safetensors")["torch"])
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self.feed.restore(state["feed"], state["update"])
        self.update = state["update"]
        self.seconds = state["seconds"]
        return self.update

    def save_snapshot(self, train_bytes: int) -> None:
        """Keep a copy of the model, named by the bytes it was trained on."""
        write = self._model_writer()
        if self.processes.is_first:
            with atomic_dir(self.run.folder / "snapshots" / str(train_bytes), needed=self._model_bytes()) as folder:
                write(folder)

    def finish(self, step: Step) -> None:
        """Save the model and complete the run."""
        self.model.eval()
        feed = self.feed
        write = self._model_writer()
        feed_state = self._feed_state()
        if self.processes.is_first:
            self.run.complete(write, needed=self._model_bytes(), facts={
                "step": step.name, "updates": self.update,
                "train_bytes": self.update * feed.batch_rows * feed.row_bytes, "seconds": round(self.seconds, 1),
                "processes": self.processes.count, "threads": torch.get_num_threads(),
                "peak_bytes": peak_bytes(str(self.device)),
                "next_row": getattr(feed, "first_row", 0) + self.update * feed.batch_rows, "feed": feed_state})
        feed.close()
        self.processes.wait()

    def stop(self, step: Step, update: int, batch: Batch, feed_before: dict, *, loss: float, norm: float) -> NoReturn:
        """Save a batch whose loss or gradient is not finite, and where it came from; raise FloatingPointError."""
        folder = self.run.folder / f"not_finite.{self.processes.rank}"
        with atomic_dir(folder) as temporary:
            save_file({"byte_ids": batch.byte_ids_BL.cpu(), "document": batch.document_BL.cpu(),
                       "boundary": batch.boundary_BL.cpu()}, temporary / "batch.safetensors")
            write_json(temporary / "where.json", {
                "step": step.name, "update": update, "process": self.processes.rank, "processes": self.processes.count,
                "loss": str(loss), "norm": str(norm), "feed_before": feed_before})
        self.processes.wait()  # the launcher ends the others when the first has ended
        raise FloatingPointError(f"step {step.name!r}, update {update}: loss {loss}, gradient norm {norm}. The weights "
                                 f"were not changed by it, and the batch is in {folder}: look at it, or lower the "
                                 "rates of this step")

    def _model_bytes(self) -> int:
        """Bytes of the weights in full, as they are saved."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.state_dict().values())

    def _trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name, tied ones once."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def _load_moments(self, saved: dict[str, Tensor]) -> None:
        for name, value in saved.items():
            place, index, field = name.split(".", 2)
            optimiser = self.optimisers[int(place)]
            weight = [w for g in optimiser.param_groups for w in g["params"]][int(index)]
            value = value.to(weight.device)
            optimiser.state[weight][field] = shard_like(value, weight) if value.shape == weight.shape else value

    def _gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors on the CPU of the first process, one by one: no GPU holds more than one of them in full."""
        found = {}
        for name, tensor in tensors.items():
            tensor = full_tensor(tensor.detach())
            if self.processes.is_first:
                found[name] = tensor.cpu().contiguous()
        return found

    def _feed_state(self) -> dict:
        """The states of all processes' lanes in one."""
        return {lane: state for each in self.processes.gathered(self.feed.state()) for lane, state in each.items()}

    def _model_writer(self) -> Callable[[Path], None]:
        """What writes the model into a folder; `save_pretrained` cannot gather weights that are sharded by itself."""
        sharded = self.processes.sharding == "fsdp2"
        weights = self._gathered(self.model.state_dict()) if sharded else merged_state(self.model)

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder, state_dict=weights)
            self.save_extra(folder)

        return write
