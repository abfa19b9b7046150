"""A student's parts in C++: fp32 on a CPU and stacks of Mamba2; what the C++ does not know falls back to torch.

The functions are those of `decode.engine.Engine` within rounding. Weights are copied into the order in which they are
read, so a student takes twice its memory here.

Shape letters: B rows, L bytes of the longest row, D width, E core width, T nodes of trees.
"""

from torch import Tensor, nn

from dbyte.decode.core_cache import Step
from dbyte.decode.core_step import can_step
from dbyte.decode.engine import Engine, Map
from dbyte.decode.stack_step import StackStep
from dbyte.model.blocks import Stack, State
from dbyte.model.core import check_positions
from dbyte.native import core as native_core
from dbyte.native import linear
from dbyte.native import stack as native_stack
from dbyte.text.prefix_tree import Tree


class NativeEngine(Engine):
    """The parts of one student, compiled; FileNotFoundError at the first use where there is no C++ compiler."""

    compiled = True

    def stack_step(self, stack: Stack) -> "StackStep | native_stack.FusedStack":
        """A stack for one byte a row; by torch.compile where the C++ does not know it."""
        return native_stack.stack_step(stack, compiled=True)

    def map(self, part: nn.Module | Tensor) -> Map:
        """A projection, a SwiGLU network or a weight [O, D] as a function of rows: [B, D] to [B, O]."""
        if isinstance(part, Tensor):
            return linear.weight_map(part, compiled=True)
        return linear.step_map(part, compiled=True)

    def _core_step(self, slots: int) -> Step | None:
        return native_core.core_step(self.student.core, slots=slots, compiled=True)

    def prefill(
        self, stack: Stack, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0
    ) -> tuple[Tensor, list[State]]:
        """Run right-padded rows of one document each; see `Engine.prefill`."""
        return native_stack.prefill(stack, hidden_BLD, length_B, slots=slots, compiled=True)

    def prefill_last(self, stack: Stack, hidden_BLD: Tensor, length_B: Tensor) -> tuple[Tensor, list[State]]:
        """Run right-padded rows and return the last byte's output alone; see `Engine.prefill_last`."""
        return native_stack.prefill_last(stack, hidden_BLD, length_B, compiled=True)

    def read_stack(self, stack: Stack, hidden_TD: Tensor, tree: Tree, *, wanted_T: Tensor | None = None) -> Tensor:
        """Run a stack over every node of a tree, each once; see `Engine.read_stack`."""
        if not native_stack.can_fuse(stack):
            return super().read_stack(stack, hidden_TD, tree, wanted_T=wanted_T)
        return native_stack.stack_step(stack, compiled=True).read(hidden_TD, tree, wanted_T)

    def read_core(self, input_TE: Tensor, tree: Tree) -> Tensor:
        """Run the core over every node of a tree, each once; see `Engine.read_core`."""
        core = self.student.core
        if not (can_step(core) and native_core.can_fuse(core)):
            return super().read_core(input_TE, tree)
        depth = int(tree.depth_T.max()) + 1
        check_positions(depth, core.config.max_position_embeddings)
        return native_core.FusedCore(core, slots=depth).read(input_TE, tree)
