"""What a frozen core has said of a row, kept: step 2.1 trains the decoder alone, and may read its rows several times.

Encoder, router and core are frozen in it, so a row's states are the same in every pass. They are kept in memory, in the
precision in which they were computed: the core's width in numbers for every chunk. Each row is read by itself, so that
they do not depend on the rows next to it, and a run that is resumed ends with the same bits.

Shape letters: B rows, M chunks, E core width.
"""

from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.distill.terms import Forward


@dataclass
class KeptForward(Forward):
    """A forward pass whose core reads only rows that are not in `kept`, a dict from a row's content to its states."""

    kept: dict[bytes, Tensor] = field(default_factory=dict)

    @cached_property
    def core_BME(self) -> Tensor:
        """The core's output along the router's chunks, 0 beyond the last chunk of a row."""
        M = self.router_chunks.mask_BM.shape[1]
        batch = self.batch
        contents = torch.stack((batch.byte_ids_BL, batch.document_BL), dim=1).to(torch.int16).cpu().numpy()
        states = []
        for content, row in zip(map(bytes, contents), batch.split(1), strict=True):
            if content not in self.kept:
                self.kept[content] = Forward(self.model, self.teacher, row, self.routes).core_BME[0].detach()
            states.append(F.pad(self.kept[content], (0, 0, 0, M - len(self.kept[content]))))
        return torch.stack(states)


def forward_way(*, kept: bool) -> partial | None:
    """What makes the forward passes of one run, with states that it keeps; None: the objective's own class."""
    return partial(KeptForward, kept={}) if kept else None
