"""What a step of the curriculum computes and keeps, counted: the step itself runs on tensors that have no numbers.

Objective, forward and backward pass are those of training, on torch's fake tensors, which know their shapes and types
alone; bytes, boundaries and documents are real. Counted are matrix products, convolutions and attention by torch's
formulas, and what autograd keeps. Elementwise work is not counted: it is memory traffic, part of the utilisation.
Layers of a part are alike, so of each part ALIKE run, and the last of them stands for all further ones.
`tests/test_counting.py` compares both counts with those of real tensors.

Shape letters: B rows, L bytes, M chunks, E core width, V vocabulary.
"""

import copy
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch._C import _current_autograd_node
from torch._C._autograd import _get_sequence_nr
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import AutoModelForCausalLM, PreTrainedModel

from dbyte.distill.losses import has_next
from dbyte.distill.steps import Step
from dbyte.distill.terms import Forward
from dbyte.kernels.fast import fast_products
from dbyte.model.backends import TORCH
from dbyte.model.checkpointing import sharding_units
from dbyte.model.chunking import Chunks
from dbyte.model.core import restarted
from dbyte.model.packed_attention import PACKED, attention_blocks
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.suffix import SuffixTable
from dbyte.text.packing import Batch

ALIKE = 2  # the first layer may differ (its input may need no gradient), the last that runs stands for all others
TEACHER = ("teacher core", "teacher head")
PARTS = ("byte_embedding", "encoder", "encoder_projection", "router", "core", "token_head", *TEACHER, "residual",
         "decoder_projection", "decoder", "byte_head", "second_head")
aten = torch.ops.aten
FORMULAS = flop_registry | {  # the library counts attention of GPUs only
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward:
        flop_registry[aten._scaled_dot_product_flash_attention_backward],
}


def one_document(config: StudentConfig, row_bytes: int, bytes_per_token: float) -> Batch:
    """A row that one document fills, or as few as the core's positions allow: no row makes attention compute more."""
    M = max(round(row_bytes / bytes_per_token), 1)
    end_M = torch.arange(1, M + 1) * row_bytes // M - 1
    boundary_BL = torch.zeros(1, row_bytes, dtype=torch.bool)
    boundary_BL[:, end_M] = True
    token_ids_BM = torch.zeros(1, M, dtype=torch.long)
    document_BM = restarted(token_ids_BM, config.core_config.max_position_embeddings)
    chunk_BL = boundary_BL.long().cumsum(1) - boundary_BL.long()
    return Batch(torch.zeros_like(chunk_BL), boundary_BL, document_BM.gather(1, chunk_BL), torch.ones_like(boundary_BL),
                 token_ids_BM, document_BM, torch.ones_like(token_ids_BM, dtype=torch.bool))


class AtTokens(Forward):
    """A forward pass whose router runs, but whose chunks are the teacher's tokens: it sets as many boundaries."""

    @cached_property
    def router_chunks(self) -> Chunks:
        """The batch's boundaries, in place of the router's."""
        _ = self.prob_BL  # which is not read
        return self.teacher_chunks


class HeadAlone:
    """A prior of which the token head's product is counted, and not the sums after it, which depend on the text."""

    @staticmethod
    @torch.no_grad()
    def along(core_BME: Tensor, token_head: nn.Module, byte_ids_BL: Tensor, chunks: Chunks) -> Tensor:
        token_head(core_BME.flatten(0, 1)[: int(chunks.mask_BM.sum())])
        return core_BME.new_zeros(1)


# -- one update, by part and layer ------------------------------------------------------------------------------------

Scope = tuple[str, int | None]  # a part, and the place of a layer in it, or None for what is in no layer
ELSEWHERE: Scope = ("", None)  # outside of all modules: the heads' products in stage 1, the smoothing's in stage 2


@dataclass
class Cost:
    """FLOPs forward and backward, bytes that autograd keeps, and bytes that enter a layer."""

    forward: int = 0
    backward: int = 0
    kept: int = 0
    entering: int = 0


class Counter(TorchDispatchMode):
    """Counts by scope the FLOPs of all that runs while it is entered, and the tensors given to `keep`.

    The hooks stay on student and teacher. gpu: their cores take the blocks of attention that a GPU has.
    """

    def __init__(self, student: ByteStudent, teacher: PreTrainedModel, *, gpu: bool):
        super().__init__()
        self.costs: dict[Scope, Cost] = defaultdict(Cost)
        self.scopes = [ELSEWHERE]  # those that are open
        self.changes = [(0, ELSEWHERE)]  # of the scope: (the first number of a node of the graph, the scope)
        weights = [weight for model in (student, teacher) for weight in (*model.parameters(), *model.buffers())]
        self.weights = {_storage(weight): weight for weight in weights}  # and autocast's copies of them
        self.storages: dict[int, Tensor] = {}  # that are kept, and held, so that no address is taken twice
        for name, part in (*student.named_children(), (TEACHER[0], teacher.model)):
            places = {layer: place for place, layer in enumerate(sharding_units(part))}
            inside = {module for layer in places for module in layer.modules()} - places.keys()
            for module in set(part.modules()) - inside:  # not every one runs in its part's forward: a gate does not
                module.register_forward_pre_hook(partial(self._enter, (name, places.get(module))))
                module.register_forward_hook(self._leave)
        for core in (student.core, teacher.model):
            core.register_forward_pre_hook(partial(_with_blocks, gpu=gpu), with_kwargs=True)

    def _enter(self, scope: Scope, module: nn.Module, args: tuple) -> None:
        if args:
            self.costs[scope].entering = args[0].untyped_storage().nbytes()
        self.scopes.append(scope)
        self.changes.append((_get_sequence_nr(), scope))

    def _leave(self, *_) -> None:
        self.scopes.pop()
        self.changes.append((_get_sequence_nr(), self.scopes[-1]))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if formula := FORMULAS.get(func._overloadpacket):
            flops = formula(*args, **(kwargs or {}), out_val=out)
            node = _current_autograd_node()
            if node is None:
                self.costs[self.scopes[-1]].forward += flops
            else:  # in backward: what the forward pass of this scope left
                place = bisect(self.changes, node._sequence_nr(), key=itemgetter(0)) - 1
                self.costs[self.changes[place][1]].backward += flops
        elif func is aten._to_copy.default and _storage(args[0]) in self.weights:
            self.weights[_storage(out)] = out
        return out

    def keep(self, tensor: Tensor) -> Tensor:
        """Note a tensor that autograd keeps."""
        address = _storage(tensor)
        if address not in self.weights and address not in self.storages:
            self.storages[address] = tensor
            self.costs[self.scopes[-1]].kept += tensor.untyped_storage().nbytes()
        return tensor

    def by_kernel(self, function: Callable) -> Callable:
        """The function as a kernel computes it, which keeps what it reads and computes the rest again."""
        def run(*args, **options):
            for given in args:
                if isinstance(given, Tensor) and given.requires_grad:
                    self.keep(given)
            with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
                return function(*args, **options)
        return run


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _with_blocks(core: nn.Module, args: tuple, kwargs: dict, *, gpu: bool) -> tuple[tuple, dict]:
    """A core's arguments with the blocks of attention that a GPU or a CPU has."""
    return args, kwargs | {"blocks": attention_blocks(kwargs["position_ids"], gpu=gpu)}


# -- a step of the plan -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """An update of one batch without its optimiser.

    flops: of every part, forward and backward, in the order of the data. kept: bytes that autograd keeps. ran,
    in_graph: the parts that run, and those that keep something for a backward pass.
    """

    flops: dict[str, int]
    kept: int
    ran: set[str]
    in_graph: set[str]


def without_numbers(config: StudentConfig) -> tuple[ByteStudent, PreTrainedModel]:
    """A student and a teacher of fake tensors, with at most ALIKE layers in a part."""
    config = copy.deepcopy(config)
    core = config.core_config
    for sizes, name in ((config, "encoder_layers"), (config, "decoder_layers"), (config, "router_layers"),
                        (core, "num_hidden_layers")):
        setattr(sizes, name, min(getattr(sizes, name), ALIKE))
    if getattr(core, "layer_types", None):
        core.layer_types = core.layer_types[:ALIKE]
    with torch.device("meta"):
        student = ByteStudent(config)
        teacher = AutoModelForCausalLM.from_config(core, attn_implementation=PACKED)
    with FakeTensorMode(allow_non_fake_inputs=True):
        student.to_empty(device="cpu")
        teacher.to_empty(device="cpu")
    student.suffix_table = SuffixTable([], bos_token_id=0, eos_token_id=0)  # read where there are suffixes
    student.token_prior = HeadAlone if config.decoding == "prior" else None
    return student, teacher


def count_step(
    config: StudentConfig, step: Step, batch: Batch, *, half: bool = False, backend: str = "torch",
    checkpointing: bool = False,
) -> Counted:
    """Count an update of a step, the optimiser left out.

    half: as on a GPU: bf16 autocast, and the blocks of attention there. backend: of Mamba2. checkpointing: layers keep
    their inputs and run forward twice, and one of each part is kept whole while it does.

    Raises ValueError for a step of Stage 2 that reads the teacher, or one that runs a part of the core.
    """
    costs = costs_of(config, step, batch, half=half, backend=backend)
    core = config.core_config
    layers = {"encoder": config.encoder_layers, "decoder": config.decoder_layers, "router": config.router_layers,
              **dict.fromkeys(("core", TEACHER[0]), core.num_hidden_layers)}
    counted = summed(costs, layers, checkpointing=checkpointing)
    if step.stage == 2:
        counted.flops["decoder_projection"] += counted.flops.pop(ELSEWHERE[0])
    elif elsewhere := counted.flops.pop(ELSEWHERE[0]):
        tokens = int(has_next(batch.token_document_BM).sum()) * (step.objective.reads_teacher == "whole")
        counted.flops[TEACHER[1]] = 2 * tokens * core.vocab_size * core.hidden_size
        counted.flops["token_head"] = elsewhere - counted.flops[TEACHER[1]]
        counted.in_graph.add("token_head")
    return counted


def costs_of(config: StudentConfig, step: Step, batch: Batch, *, half: bool, backend: str) -> Mapping[Scope, Cost]:
    """The costs of an update by part and layer, of at most ALIKE layers; what it takes and raises: `count_step`."""
    if step.stage == 2 and step.objective.reads_teacher:
        raise ValueError(f"step {step.name!r} takes the teacher's distributions over bytes, whose sums depend on the "
                         "tokens of the text: plan without stage2.targets; what they cost is in "
                         "benchmarks/byte_probabilities.md")
    student, teacher = without_numbers(config)
    step.thaw(student)
    counter = Counter(student, teacher, gpu=half)
    kernels = replace(TORCH, scan=counter.by_kernel(TORCH.scan), convolve_silu=counter.by_kernel(TORCH.convolve_silu))
    for module in student.modules():
        if hasattr(module, "backend"):
            module.backend = kernels if backend == "triton" else backend
    with counter, fast_products() if backend == "fast" else nullcontext():
        with (saved_tensors_hooks(counter.keep, lambda tensor: tensor),
              torch.autocast("cpu", torch.bfloat16, enabled=half)):
            loss = replace(step.objective, way=AtTokens)(student, teacher, batch)
        loss.backward()
    return counter.costs


def summed(costs: Mapping[Scope, Cost], layers: Mapping[str, int], *, checkpointing: bool = False) -> Counted:
    """The sum over scopes, in the order of PARTS; layers: how many a part has, where those are more than ALIKE."""
    flops = dict.fromkeys((*PARTS, ELSEWHERE[0]), 0)
    kept = 0
    again = defaultdict(int)  # what is kept of one layer of each part while it runs again
    for (part, place), cost in costs.items():
        times = 1 + max(layers.get(part, 0) - ALIKE, 0) * (place == ALIKE - 1)
        twice = checkpointing and place is not None and cost.kept > 0
        if twice:
            again[part] = max(again[part], cost.kept)
        flops[part] += times * (cost.forward * (1 + twice) + cost.backward)
        kept += times * (cost.entering if twice else cost.kept)
    return Counted(flops, kept + sum(again.values()), {part for part, _ in costs},
                   {part for (part, _), cost in costs.items() if cost.kept})


def muon_flops(student: ByteStudent, step: Step) -> int:
    """Count the FLOPs of Muon in one update of a student on the meta device; AdamW's work is elementwise.

    It freezes and thaws the student's weights as the step does.
    """
    with FlopCounterMode(display=False) as counter:
        for optimiser in step.optimisers(student):
            if isinstance(optimiser, torch.optim.Muon):
                for weight in (weight for group in optimiser.param_groups for weight in group["params"]):
                    weight.grad = torch.empty_like(weight)
                optimiser.step()
    return counter.get_total_flops()
