"""The processes that train one run together; a single process is the special case of one.

`accelerate launch` and `torchrun` start them and say so in the environment; accelerate joins them (gloo on CPUs, NCCL
on GPUs), and torch shards: DDP keeps the full model in each, FSDP2 a share of every weight, gradient and moment. What
is computed does not depend on how many there are.

`accelerate launch --cpu --num_processes 2` runs one process, and torchrun without the CPU setting runs two that do not
know of each other. So the number that was asked for is checked against the number that met.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dbyte.device import check_device

T = TypeVar("T")
SHARDINGS = ("ddp", "fsdp2")
PATIENCE = timedelta(hours=6)  # others wait while the first packs text or writes a model


@dataclass(frozen=True)
class Processes:
    """How many processes there are, which of them this is (0 is the first), and how they share the model."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    sharding: str = "ddp"

    @property
    def is_first(self) -> bool:
        """True in the one process that writes and prints."""
        return self.rank == 0

    def wrap(self, module: nn.Module, units: list[nn.Module]) -> nn.Module:
        """Share a module's forward and backward between all; units: what FSDP2 gathers and frees one by one."""
        if self.sharding == "fsdp2":
            mesh = init_device_mesh(self.device.split(":")[0], (self.count,))
            for part in (*units, module):
                fully_shard(part, mesh=mesh)
            return module
        return module if self.count == 1 else DistributedDataParallel(module, broadcast_buffers=False)

    def deferred(self, module: nn.Module, *, last: bool) -> AbstractContextManager:
        """Under DDP, share gradients only in the `last` backward pass of an update.

        FSDP2 shares them in every pass, since it would otherwise hold them in full.
        """
        return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gathered(self, value: object) -> list:
        """The value of every process, in the order of ranks."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def of_first(self, ask: Callable[[], T]) -> T:
        """What `ask` returns in the first process, in all of them; only the first calls it."""
        return self.gathered(ask() if self.is_first else None)[0]

    def wait(self) -> None:
        """Wait until all processes have come this far."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Run a block in the first process, then in the others, which find what it has cached."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


@dataclass(frozen=True)
class Launch:
    """How a run is computed; its address does not depend on it.

    rows_at_once: rows of a micro-batch, None: all rows of the process. recompute: keep no activations inside blocks
    and compute them again in backward. tensorboard: write its files too. backend: of Mamba2 (model/backends.py),
    None: the best for device and precision.
    """

    processes: Processes = Processes()
    rows_at_once: int | None = None
    recompute: bool = False
    tensorboard: bool = False
    backend: str | None = None


ALONE = Launch()  # in one process


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor in full in this process; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, template: Tensor) -> Tensor:
    """A full tensor, sharded as the template is."""
    tensor = tensor.to(template.device)
    if isinstance(template, DTensor):
        return distribute_tensor(tensor, template.device_mesh, template.placements)
    return tensor


def join(device: str = "cpu", *, expected: int | None = None, sharding: str = "ddp") -> Processes:
    """Meet the processes that a launcher started; one process if none did.

    expected: how many there must be; None: as many as the launcher says.
    Raises:
        ValueError: for an unknown sharding, a missing device, or another number of processes than `expected`.
    """
    if sharding not in SHARDINGS:
        raise ValueError(f"unknown sharding {sharding!r}: choose one of {', '.join(SHARDINGS)}")
    check_device(device)
    launched = int(os.environ.get("WORLD_SIZE", 1))
    found = Processes(device=device)
    if launched > 1 or sharding == "fsdp2":
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
        if not dist.is_initialized():  # FSDP2 shards over a group, even of one process
            dist.init_process_group("gloo" if device == "cpu" else "nccl", store=dist.HashStore(), rank=0, world_size=1)
        found = Processes(state.process_index, state.num_processes, str(state.device), sharding)
    asked = expected or launched
    if found.count != launched or launched != asked:
        raise ValueError(f"{asked} processes were asked for, but {found.count} met (the launcher started {launched}). "
                         "On a CPU use `torchrun --nproc_per_node 2 -m dbyte train ... --device cpu`; on GPUs give "
                         "each process its own")
    return found
