"""State-space duality (SSD): the linear recurrence of Mamba2, computed in chunks of matrix products.

    state_i = exp(dt_i A) state_{i-1} + dt_i x_i B_i^T          y_i = state_i C_i + D x_i

Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 6; used by the paper's encoder and decoder
(arXiv 2602.01007, Table 12). This is the reference: plain torch on any device. Half-precision inputs are scanned in
fp32, because decays and states do not survive fewer bits.

Documents are isolated exactly, by masks instead of large negative decays: a byte reads no state and no input of another
document, whatever the magnitudes. Deviation from the usual listing: states pass between chunks in a loop over chunks
(linear in L), not through a [C, C] matrix (quadratic in L).

Shape letters: B rows, L bytes, C chunks of Q bytes (SSD chunks, not the student's; S where a byte is read), H heads,
P head width, N state size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, einsum


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    *,
    D_H: Tensor | None = None,
    chunk_size: int = 64,
    document_BL: Tensor | None = None,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan the Mamba2 recurrence over each row, with one group of B and C shared by all heads.

    Args:
        x_BLHP: inputs, any float dtype.
        dt_BLH: step sizes after softplus, >= 0; a byte with dt 0 leaves the state as it is.
        A_H: decay rates, < 0.
        B_BLN, C_BLN: input and output maps.
        D_H: adds D x to y, past the state; None: nothing.
        chunk_size: bytes per chunk, >= 1; changes speed and memory, not the result. L need not be a multiple.
        document_BL: int; bytes of one document are contiguous and share a value; None: one document a row.
    Returns:
        y_BLHP in x's dtype, and with `return_final_state` also the state after the last byte, BHPN, fp32 at least.
    Raises:
        ValueError: if shapes contradict each other or chunk_size < 1.
    """
    _check_shapes(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, chunk_size, document_BL)
    B, L = x_BLHP.shape[:2]
    wide = torch.promote_types(x_BLHP.dtype, torch.float32)
    if document_BL is None:
        document_BL = torch.zeros(B, L, dtype=torch.long, device=x_BLHP.device)
    pad = -L % chunk_size  # zeros fill the last chunk: with dt 0 they leave the final state as it is

    def in_chunks(given: Tensor) -> Tensor:
        padded = F.pad(given.to(wide), (0, 0) * (given.dim() - 2) + (0, pad))
        return padded.unflatten(1, (-1, chunk_size))

    document_BCQ = torch.cat([document_BL, document_BL[:, -1:].expand(B, pad)], dim=1).unflatten(1, (-1, chunk_size))
    with torch.autocast(x_BLHP.device.type, enabled=False):  # it would round what has just been widened
        y_BCQHP, state_BHPN = _scan(in_chunks(x_BLHP), in_chunks(dt_BLH), A_H.to(wide), in_chunks(B_BLN),
                                    in_chunks(C_BLN), document_BCQ)
    y_BLHP = y_BCQHP.flatten(1, 2)[:, :L]
    if D_H is not None:
        y_BLHP = y_BLHP + x_BLHP * D_H.to(wide)[:, None]
    y_BLHP = y_BLHP.to(x_BLHP.dtype)
    return (y_BLHP, state_BHPN) if return_final_state else y_BLHP


def _scan(
    x_BCQHP: Tensor, dt_BCQH: Tensor, A_H: Tensor, B_BCQN: Tensor, C_BCQN: Tensor, document_BCQ: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence over whole chunks: y without the skip, and the state after the last chunk."""
    input_BCQHP = x_BCQHP * dt_BCQH[..., None]
    decay_BCHQ = (dt_BCQH * A_H).transpose(2, 3).cumsum(-1)  # log of the decay from the chunk's start through byte q
    same_BCQS = document_BCQ[..., :, None] == document_BCQ[..., None, :]
    open_BC = document_BCQ[..., -1]  # the document that is open at a chunk's end, and the one that was open before it
    entering_BC = torch.cat([document_BCQ[:, :1, 0], open_BC[:, :-1]], dim=1)

    # 1. Inside a chunk: byte q reads byte s <= q of its own document.
    decays_BCHQS = decay_BCHQ[..., :, None] - decay_BCHQ[..., None, :]
    decays_BCHQS = decays_BCHQS.masked_fill(~same_BCQS.tril()[:, :, None], float("-inf")).exp()
    scores_BCQS = einsum("bcqn,bcsn->bcqs", C_BCQN, B_BCQN)
    y_BCQHP = einsum("bchqs,bcshp->bcqhp", scores_BCQS[:, :, None] * decays_BCHQS, input_BCQHP)

    # 2. What a chunk adds to the state of the document that is open at its end.
    to_end_BCHQ = (decay_BCHQ[..., -1:] - decay_BCHQ).exp() * (document_BCQ == open_BC[..., None])[:, :, None]
    sent_BCQHP = input_BCQHP * to_end_BCHQ.transpose(2, 3)[..., None]
    added_BCHPN = einsum("bcqhp,bcqn->bchpn", sent_BCQHP, B_BCQN)

    # 3. From chunk to chunk: the state that enters each one.
    state_BHPN = torch.zeros_like(added_BCHPN[:, 0])
    carry_BCH = decay_BCHQ[..., -1].exp() * (open_BC == entering_BC)[..., None]
    states = []
    for carry_BH, added_BHPN in zip(carry_BCH.unbind(1), added_BCHPN.unbind(1), strict=True):
        states.append(state_BHPN)
        state_BHPN = carry_BH[..., None, None] * state_BHPN + added_BHPN

    # 4. What the entering state contributes to the bytes of its own document.
    from_start_BCHQ = decay_BCHQ.exp() * (document_BCQ == entering_BC[..., None])[:, :, None]
    read_BCQHP = einsum("bcqn,bchpn->bcqhp", C_BCQN, torch.stack(states, dim=1))
    return y_BCQHP + read_BCQHP * from_start_BCHQ.transpose(2, 3)[..., None], state_BHPN


def _check_shapes(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, chunk_size: int,
    document_BL: Tensor | None,
) -> None:
    B, L, H, _ = x_BLHP.shape
    N = B_BLN.shape[-1]
    found = (tuple(dt_BLH.shape), tuple(A_H.shape), tuple(B_BLN.shape), tuple(C_BLN.shape))
    expected = ((B, L, H), (H,), (B, L, N), (B, L, N))
    if found != expected:
        raise ValueError(f"ssd expects dt [B,L,H], A [H], B [B,L,N], C [B,L,N] = {expected} for x of shape "
                         f"{tuple(x_BLHP.shape)}; found {found}")
    if L == 0 or chunk_size < 1:
        raise ValueError(f"ssd expects at least one byte and chunk_size >= 1; found L = {L}, chunk_size = {chunk_size}")
    if document_BL is not None and document_BL.shape != (B, L):
        raise ValueError(f"ssd expects document_BL of shape {(B, L)}; found {tuple(document_BL.shape)}")
