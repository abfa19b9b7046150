"""Run a transformers decoder over packed documents: the student's core and its teacher take the same path.

The core is the teacher's own transformer without embedding and head (paper section 4.1), read through inputs_embeds.
A position attends to earlier positions of its own document, and rotary positions restart with each document, so a
packed document is computed as if it were alone.

Shape letters: B rows, M chunks or tokens, E core width, G key-value heads, W head width, S cache slots, R rows chosen.
"""

import torch
from torch import Tensor, nn

from dbyte.model.packed_attention import attention_blocks
from dbyte.native.core import core_step


def document_mask(document_BM: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [B, 1, M, M]: 0 within a document up to the diagonal, -inf elsewhere.

    A float mask, because a boolean one is added as 0/1 by transformers' eager attention.
    """
    M = document_BM.shape[1]
    allowed_BMM = document_BM[:, :, None] == document_BM[:, None, :]
    allowed_BMM = allowed_BMM & torch.ones(M, M, dtype=torch.bool, device=document_BM.device).tril()
    return torch.zeros_like(allowed_BMM, dtype=dtype).masked_fill(~allowed_BMM, float("-inf"))[:, None]


def positions_within(document_BM: Tensor) -> Tensor:
    """Number the positions of each document 0, 1, 2, ... (int64 [B, M]); documents are contiguous runs of one value."""
    order_M = torch.arange(document_BM.shape[1], device=document_BM.device).expand_as(document_BM)
    starts_BM = torch.ones_like(document_BM, dtype=torch.bool)
    starts_BM[:, 1:] = document_BM[:, 1:] != document_BM[:, :-1]
    return order_M - order_M.masked_fill(~starts_BM, 0).cummax(1).values


def restarted(document_BM: Tensor, limit: int) -> Tensor:
    """Documents of more than `limit` positions cut into several that have no more; the numbers of all change then."""
    M = document_BM.shape[1]
    if M <= limit:
        return document_BM
    parts_BM = document_BM * M + positions_within(document_BM) // limit
    return parts_BM.masked_fill(document_BM < 0, -1)


def run_core(core: nn.Module, input_BME: Tensor, document_BM: Tensor, cache: "CoreCache | None" = None) -> Tensor:
    """Return the core's last hidden states [B, M, E]; padded positions carry document -1.

    Raises:
        ValueError: if a document has more positions than the core was built for.
    """
    position_BM = positions_within(document_BM)
    check_positions(int(position_BM.masked_fill(document_BM < 0, 0).max()) + 1, core.config.max_position_embeddings)
    return core(inputs_embeds=input_BME, attention_mask=document_mask(document_BM, input_BME.dtype),
                position_ids=position_BM, past_key_values=cache, use_cache=cache is not None,
                blocks=attention_blocks(position_BM)).last_hidden_state


def check_positions(needed: int, limit: int) -> None:
    """Raise ValueError if a document needs more positions than the core has."""
    if needed > limit:
        raise ValueError(f"a document has {needed} chunks, but the core was built for {limit} positions "
                         "(max_position_embeddings): cut the text, or pack shorter rows")


class CoreCache:
    """Preallocated keys and values of every core layer, for rows that advance at their own pace.

    transformers' caches assume one length for all rows; here row b holds length[b] positions, and a step writes the
    chosen rows only. Memory: 2 * layers * B * S * G * W numbers, and 2 * S * W for the rotary angles.
    """

    is_compileable = False

    def __init__(self, core: nn.Module, *, rows: int, slots: int, direct: bool = True, compiled: bool = False):
        """direct: step by `CoreStep` where it knows the core's family, fused if compiled; else by transformers' own
        forward.

        Raises:
            ValueError: for more slots than the core has positions.
        """
        config = core.config
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weight = next(core.parameters())
        shape = (config.num_hidden_layers, rows, slots, config.num_key_value_heads, head_width)
        check_positions(slots, config.max_position_embeddings)
        self.keys, self.values = weight.new_zeros(shape), weight.new_zeros(shape)
        self.length = [0] * rows  # plain numbers: reading a tensor's would wait for the device
        self.slots = slots
        self._direct = core_step(core, slots=slots, compiled=compiled) if direct else None
        self._rows: list[int] | None = None

    def update(self, key_BGMW: Tensor, value_BGMW: Tensor, layer: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Store this layer's new keys and values; called by transformers' attention."""
        if self._rows is None:  # prefill: every row, from slot 0
            M = key_BGMW.shape[2]
            self.keys[layer, :, :M], self.values[layer, :, :M] = key_BGMW.transpose(1, 2), value_BGMW.transpose(1, 2)
            return key_BGMW, value_BGMW
        slots = [self.length[row] for row in self._rows]
        self.keys[layer, self._rows, slots] = key_BGMW[:, :, 0]
        self.values[layer, self._rows, slots] = value_BGMW[:, :, 0]
        used = max(slots) + 1
        return (self.keys[layer, self._rows, :used].transpose(1, 2),
                self.values[layer, self._rows, :used].transpose(1, 2))

    def get_seq_length(self, *_) -> int:
        """Longest row; transformers asks for it, positions are passed explicitly."""
        return max(self.length)

    def prefill(self, core: nn.Module, input_BME: Tensor, document_BM: Tensor) -> Tensor:
        """Run whole rows of one right-padded document each (padding has document -1) and keep their keys and values."""
        output_BME = run_core(core, input_BME, document_BM, cache=self)
        self.length = (document_BM >= 0).sum(1).tolist()
        return output_BME

    def step(self, core: nn.Module, input_RE: Tensor, rows: list[int]) -> Tensor:
        """Append one position to these rows and return their hidden states [R, E].

        Raises:
            ValueError: if a row has no free slot.
        """
        slots = [self.length[row] for row in rows]
        if max(slots) >= self.slots:
            raise ValueError(f"the cache holds {self.slots} chunks a row and is full: allow for more when it is made")
        hidden_RE = (self._by_forward(core, input_RE, rows, slots) if self._direct is None else
                     self._direct.step(input_RE, self.keys, self.values, rows, slots))
        for row in rows:
            self.length[row] += 1
        return hidden_RE

    def _by_forward(self, core: nn.Module, input_RE: Tensor, rows: list[int], slots: list[int]) -> Tensor:
        position_R = torch.tensor(slots, device=input_RE.device)
        visible_RS = torch.arange(max(slots) + 1, device=input_RE.device) <= position_R[:, None]
        mask_RS = torch.zeros_like(visible_RS, dtype=input_RE.dtype).masked_fill(~visible_RS, float("-inf"))
        self._rows = rows
        hidden_R1E = core(inputs_embeds=input_RE[:, None], attention_mask=mask_RS[:, None, None],
                          position_ids=position_R[:, None], past_key_values=self, use_cache=True).last_hidden_state
        self._rows = None
        return hidden_R1E[:, 0]
