"""State-space duality (SSD): the linear recurrence of Mamba2, computed in chunks of matrix products.

    state_i = exp(dt_i A) state_{i-1} + dt_i x_i B_i^T          y_i = state_i C_i

Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), section 6; used by the paper's encoder and decoder
(arXiv 2602.01007, Table 12). This is the reference: pure PyTorch, any device, any float dtype.

Half-precision inputs are scanned in fp32 (decays and states do not survive fewer bits), and y is given back in theirs.

Shape letters: B rows, L bytes, C chunks of Q bytes (SSD chunks, not the student's), H heads, P head width,
N state size.

Documents are isolated exactly, by masks instead of large negative decays: a byte reads no state and no input of another
document, whatever the magnitudes. Deviation from the usual listing: states pass between chunks in a loop over chunks
(linear in L), not through a [C, C] matrix (quadratic in L).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


class _PassStates(torch.autograd.Function):
    """Run state <- decay * state + update over chunks, keeping the state that enters each chunk."""

    @staticmethod
    def forward(ctx, update_BCHPN: Tensor, decay_BCH: Tensor, initial_BHPN: Tensor) -> tuple[Tensor, Tensor]:
        entering_BCHPN = torch.empty_like(update_BCHPN)
        state_BHPN = initial_BHPN.clone()
        for c in range(update_BCHPN.shape[1]):
            entering_BCHPN[:, c] = state_BHPN
            state_BHPN = torch.addcmul(update_BCHPN[:, c], decay_BCH[:, c, :, None, None], state_BHPN)
        ctx.save_for_backward(entering_BCHPN, decay_BCH)
        return entering_BCHPN, state_BHPN

    @staticmethod
    def backward(ctx, grad_entering_BCHPN: Tensor, grad_final_BHPN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entering_BCHPN, decay_BCH = ctx.saved_tensors
        grad_update_BCHPN = torch.empty_like(entering_BCHPN)
        grad_BHPN = grad_final_BHPN
        for c in reversed(range(entering_BCHPN.shape[1])):
            grad_update_BCHPN[:, c] = grad_BHPN
            grad_BHPN = torch.addcmul(grad_entering_BCHPN[:, c], decay_BCH[:, c, :, None, None], grad_BHPN)
        grad_decay_BCH = (grad_update_BCHPN * entering_BCHPN).sum((-2, -1))
        return grad_update_BCHPN, grad_decay_BCH, grad_BHPN


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    *,
    chunk_size: int = 64,
    document_BL: Tensor | None = None,
    initial_state_BHPN: Tensor | None = None,
    initial_document_B: Tensor | None = None,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan the Mamba2 recurrence over each row, one group of B and C shared by all heads.

    Args:
        x_BLHP: inputs, any float dtype.
        dt_BLH: step sizes after softplus, >= 0; a byte with dt 0 leaves the state as it is.
        A_H: decay rates, < 0.
        B_BLN, C_BLN: input and output maps.
        chunk_size: bytes per chunk, >= 1; changes speed and memory, not the result. L need not be a multiple.
        document_BL: int; bytes of one document are contiguous and share a value; None: one document a row.
        initial_state_BHPN: the state before the first byte; belongs to `initial_document_B` (int), or to the document
            of the first byte where that is None.
    Returns:
        y_BLHP, and with `return_final_state` also the state after the last byte, BHPN.
    Raises:
        ValueError: if shapes contradict each other or chunk_size < 1.
    """
    B, L, H, P = x_BLHP.shape
    N = B_BLN.shape[-1]
    _check_shapes(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, chunk_size, document_BL)
    dtype = x_BLHP.dtype
    if dtype in HALF:
        x_BLHP, B_BLN, C_BLN = x_BLHP.float(), B_BLN.float(), C_BLN.float()
    dt_BLH, A_H = dt_BLH.to(x_BLHP.dtype), A_H.to(x_BLHP.dtype)
    if document_BL is None:
        document_BL = torch.zeros(B, L, dtype=torch.long, device=x_BLHP.device)
    pad = -L % chunk_size
    if pad:  # dt 0 neither decays nor adds, so the final state is that of the last true byte
        x_BLHP = F.pad(x_BLHP, (0, 0, 0, 0, 0, pad))
        B_BLN, C_BLN = F.pad(B_BLN, (0, 0, 0, pad)), F.pad(C_BLN, (0, 0, 0, pad))
        dt_BLH = F.pad(dt_BLH, (0, 0, 0, pad))
        document_BL = torch.cat([document_BL, document_BL[:, -1:].expand(B, pad)], dim=1)
    C, Q = (L + pad) // chunk_size, chunk_size

    document_BCQ = document_BL.view(B, C, Q)
    dt_BCHQ = dt_BLH.view(B, C, Q, H).transpose(2, 3)
    decay_BCHQ = (dt_BCHQ * A_H[:, None]).cumsum(-1)  # log of the decay from the chunk's start through byte q
    x_BCHQP = x_BLHP.view(B, C, Q, H, P).transpose(2, 3)
    x_BCHQP = x_BCHQP * dt_BCHQ[..., None]
    B_BCQN, C_BCQN = B_BLN.view(B, C, Q, N), C_BLN.view(B, C, Q, N)

    # 1. Inside a chunk: byte i reads byte j <= i of its own document.
    same_BCQQ = document_BCQ[..., :, None] == document_BCQ[..., None, :]
    reads_BCQQ = same_BCQQ & torch.ones(Q, Q, dtype=torch.bool, device=x_BLHP.device).tril()
    scores_BCQQ = (C_BCQN @ B_BCQN.transpose(-1, -2)).masked_fill(~reads_BCQQ, 0)
    # masked before exp: above the diagonal the difference is positive and may overflow
    log_BCHQQ = (decay_BCHQ[..., :, None] - decay_BCHQ[..., None, :]).clamp(max=0)
    y_BCHQP = (scores_BCQQ[:, :, None] * log_BCHQQ.exp()) @ x_BCHQP

    # 2. What a chunk adds to the state of the document that is open at its end.
    open_BC = document_BCQ[..., -1]
    adds_BCHQ = (decay_BCHQ[..., -1:] - decay_BCHQ).exp() * (document_BCQ == open_BC[..., None])[:, :, None]
    update_BCHPN = (x_BCHQP * adds_BCHQ[..., None]).transpose(-1, -2).reshape(B, C, H * P, Q) @ B_BCQN

    # 3. From chunk to chunk: the state survives a chunk iff the chunk ends in the document that entered it.
    entering_BC = torch.cat([document_BL[:, :1] if initial_document_B is None else initial_document_B[:, None],
                             open_BC[:, :-1]], dim=1)
    carry_BCH = decay_BCHQ[..., -1].exp() * (open_BC == entering_BC)[..., None]
    if initial_state_BHPN is None:
        initial_state_BHPN = x_BLHP.new_zeros(B, H, P, N)
    state_BCHPN, final_BHPN = _PassStates.apply(update_BCHPN.view(B, C, H, P, N), carry_BCH, initial_state_BHPN)

    # 4. What the entering state contributes to the bytes of its own document.
    reads_BCHQ = decay_BCHQ.exp() * (document_BCQ == entering_BC[..., None])[:, :, None]
    from_state_BCQHP = (C_BCQN @ state_BCHPN.reshape(B, C, H * P, N).transpose(-1, -2)).view(B, C, Q, H, P)
    y_BCQHP = torch.addcmul(y_BCHQP.transpose(2, 3), from_state_BCQHP, reads_BCHQ.transpose(2, 3)[..., None])
    y_BLHP = y_BCQHP.reshape(B, L + pad, H, P)[:, :L].to(dtype)
    return (y_BLHP, final_BHPN) if return_final_state else y_BLHP


def ssd_step(
    state_BHPN: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BN: Tensor, C_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance the recurrence by one byte; returns (y_BHP in x's dtype, the new state BHPN in the state's)."""
    dtype = x_BHP.dtype
    x_BHP, dt_BH, A_H, B_BN, C_BN = (t.to(state_BHPN.dtype) for t in (x_BHP, dt_BH, A_H, B_BN, C_BN))
    decay_BH = (dt_BH * A_H).exp()
    added_BHPN = (x_BHP * dt_BH[..., None])[..., None] * B_BN[:, None, None, :]
    state_BHPN = state_BHPN * decay_BH[..., None, None] + added_BHPN
    return (state_BHPN @ C_BN[:, None, :, None]).squeeze(-1).to(dtype), state_BHPN


def _check_shapes(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, chunk_size: int,
    document_BL: Tensor | None,
) -> None:
    B, L, H, _ = x_BLHP.shape
    found = (tuple(dt_BLH.shape), tuple(A_H.shape), tuple(B_BLN.shape), tuple(C_BLN.shape))
    expected = ((B, L, H), (H,), (B, L, B_BLN.shape[-1]), (B, L, B_BLN.shape[-1]))
    if found != expected:
        raise ValueError(f"ssd expects dt [B,L,H], A [H], B [B,L,N], C [B,L,N] = {expected} for x of shape "
                         f"{tuple(x_BLHP.shape)}; found {found}")
    if L == 0 or chunk_size < 1:
        raise ValueError(f"ssd expects at least one byte and chunk_size >= 1; found L = {L}, chunk_size = {chunk_size}")
    if document_BL is not None and document_BL.shape != (B, L):
        raise ValueError(f"ssd expects document_BL of shape {(B, L)}; found {tuple(document_BL.shape)}")
