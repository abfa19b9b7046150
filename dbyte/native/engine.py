"""A student's parts in C++: stacks of Mamba2, the core and linear maps in fp32 on a CPU; the rest stays torch's.

The functions are those of `decode.engine.Engine` within rounding. Weights are copied into the order in which they are
read, so a student takes twice its memory.

Shape letters: B rows, L bytes of the longest row, D width, E core width, T nodes of trees.
"""

import torch
from torch import Tensor, nn

from dbyte.decode.core_cache import Step
from dbyte.decode.engine import Engine, Map
from dbyte.decode.stack_step import StackStep
from dbyte.model.blocks import Stack, State
from dbyte.model.core import check_positions
from dbyte.native.core import NativeCore, is_native_core
from dbyte.native.library import cached_pack, is_cpu_fp32
from dbyte.native.linear import NativeMap, pack_map
from dbyte.native.stack import NativeStack, is_native_stack
from dbyte.text.prefix_tree import Tree


class NativeEngine(Engine):
    """The parts of one student, compiled; each method computes what `Engine`'s does."""

    compiled = True

    def stack_step(self, stack: Stack) -> NativeStack | StackStep:
        """A stack for one byte a row; where the C++ does not know it, by torch.compile."""
        return cached_pack(stack, NativeStack if is_native_stack(stack) else _compiled_step)

    def map(self, part: nn.Module | Tensor) -> Map:
        """A projection, a SwiGLU network or a weight [O, D] as a function of rows: [..., D] to [..., O]."""
        if not is_cpu_fp32(part) or getattr(part, "bias", None) is not None:
            return super().map(part)
        return NativeMap(part) if isinstance(part, Tensor) else cached_pack(part, pack_map)

    def _core_step(self, slots: int) -> Step | None:
        core = self.student.core
        return NativeCore(core, slots=slots) if is_native_core(core) else super()._core_step(slots)

    def prefill(
        self, stack: Stack, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0
    ) -> tuple[Tensor, list[State]]:
        """Run right-padded rows of one document each; see `Engine.prefill`."""
        if not is_native_stack(stack):
            return super().prefill(stack, hidden_BLD, length_B, slots=slots)
        return self.stack_step(stack).prefill(hidden_BLD, length_B)

    def prefill_last(self, stack: Stack, hidden_BLD: Tensor, length_B: Tensor) -> tuple[Tensor, list[State]]:
        """Run right-padded rows and return the last byte's output alone; see `Engine.prefill_last`."""
        if not is_native_stack(stack):
            return super().prefill_last(stack, hidden_BLD, length_B)
        output_BLD, states = self.stack_step(stack).prefill(hidden_BLD, length_B, last_only=True)
        return output_BLD[torch.arange(len(length_B)), (length_B - 1).clamp(min=0)], states

    def read_stack(self, stack: Stack, hidden_TD: Tensor, tree: Tree, *, wanted_T: Tensor | None = None) -> Tensor:
        """Run a stack over every node of a tree, each once; see `Engine.read_stack`."""
        if not is_native_stack(stack):
            return super().read_stack(stack, hidden_TD, tree, wanted_T=wanted_T)
        return self.stack_step(stack).read(hidden_TD, tree, wanted_T)

    def read_core(self, input_TE: Tensor, tree: Tree) -> Tensor:
        """Run the core over every node of a tree, each once; see `Engine.read_core`."""
        core = self.student.core
        if not is_native_core(core):
            return super().read_core(input_TE, tree)
        depth = int(tree.depth_T.max()) + 1
        check_positions(depth, core.config.max_position_embeddings)
        return NativeCore(core, slots=depth).read(input_TE, tree)


def _compiled_step(stack: Stack) -> StackStep:
    return StackStep(stack).compile()
