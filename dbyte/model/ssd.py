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
from torch.autograd.function import once_differentiable

HALF = (torch.bfloat16, torch.float16)


class _Scan(torch.autograd.Function):
    """The scan over whole chunks, with a backward pass by hand, which touches memory less than the recorded one would.

    Gradients of the log decays need no product of their own. All that byte i receives is proportional to exp(a_i), all
    that byte j sends to exp(-a_j), and a chunk's final state to exp(a_last), so with X = x dt
        d a_i = <dy_i, y_i - D x_i> - <dX_i, X_i>        d a_last += <d state, state>
    """

    @staticmethod
    def forward(ctx, x_BCQHP, dt_BCHQ, A_H, B_BCQN, C_BCQN, D_H, initial_BHPN, same_BCQQ, open_BCQ, entered_BCQ,
                carried_BC):
        B, C, Q, H, P = x_BCQHP.shape
        N = B_BCQN.shape[-1]
        decay_BCHQ = (dt_BCHQ * A_H[:, None]).cumsum(-1)  # log of the decay from the chunk's start through byte q
        X_BCHQP = torch.mul(x_BCQHP.transpose(2, 3), dt_BCHQ[..., None], out=x_BCQHP.new_empty(B, C, H, Q, P))

        # 1. Inside a chunk: byte i reads byte j <= i of its own document.
        decays_BCHQQ = decay_BCHQ[..., :, None] - decay_BCHQ[..., None, :]
        decays_BCHQQ.masked_fill_(~same_BCQQ.tril()[:, :, None], float("-inf")).exp_()
        scores_BCQQ = C_BCQN @ B_BCQN.transpose(-1, -2)
        y_BCHQP = (scores_BCQQ[:, :, None] * decays_BCHQQ) @ X_BCHQP

        # 2. What a chunk adds to the state of the document that is open at its end.
        to_end_BCQH = ((decay_BCHQ[..., -1:] - decay_BCHQ).exp() * open_BCQ[:, :, None]).transpose(2, 3).contiguous()
        sent_BCQI = (x_BCQHP * (dt_BCHQ.transpose(2, 3) * to_end_BCQH)[..., None]).view(B, C, Q, H * P)
        state_BCHPN = (sent_BCQI.transpose(-1, -2) @ B_BCQN).view(B, C, H, P, N)

        # 3. From chunk to chunk; state_BCHPN turns from what each chunk adds into what enters it.
        carry_BCH = decay_BCHQ[..., -1].exp() * carried_BC[..., None]
        running_BHPN = initial_BHPN
        for c in range(C):
            after_BHPN = torch.addcmul(state_BCHPN[:, c], carry_BCH[:, c, :, None, None], running_BHPN)
            state_BCHPN[:, c] = running_BHPN
            running_BHPN = after_BHPN

        # 4. What the entering state contributes to the bytes of its own document.
        from_start_BCQH = (decay_BCHQ.exp() * entered_BCQ[:, :, None]).transpose(2, 3).contiguous()
        y_BCQHP = (C_BCQN @ state_BCHPN.view(B, C, H * P, N).transpose(-1, -2)).view(B, C, Q, H, P)
        y_BCQHP.mul_(from_start_BCQH[..., None]).add_(y_BCHQP.transpose(2, 3)).addcmul_(x_BCQHP, D_H[:, None])
        ctx.save_for_backward(x_BCQHP, dt_BCHQ, A_H, B_BCQN, C_BCQN, D_H, X_BCHQP, decays_BCHQQ, scores_BCQQ,
                              to_end_BCQH, state_BCHPN, carry_BCH, running_BHPN, from_start_BCQH, y_BCQHP)
        return y_BCQHP, running_BHPN

    @staticmethod
    @once_differentiable
    def backward(ctx, dy_BCQHP, dfinal_BHPN):
        (x_BCQHP, dt_BCHQ, A_H, B_BCQN, C_BCQN, D_H, X_BCHQP, decays_BCHQQ, scores_BCQQ, to_end_BCQH, state_BCHPN,
         carry_BCH, final_BHPN, from_start_BCQH, y_BCQHP) = ctx.saved_tensors
        B, C, Q, H, P = x_BCQHP.shape
        N, dt_BCQH = B_BCQN.shape[-1], dt_BCHQ.transpose(2, 3)
        dy_BCHQP = dy_BCQHP.transpose(2, 3).contiguous()

        # 4 and 3, backwards: dstate_BCHPN turns from the gradient of what enters into that of what leaves a chunk.
        read_BCQI = (dy_BCQHP * from_start_BCQH[..., None]).view(B, C, Q, H * P)
        dC_BCQN = read_BCQI @ state_BCHPN.view(B, C, H * P, N)
        dstate_BCHPN = (read_BCQI.transpose(-1, -2) @ C_BCQN).view(B, C, H, P, N)
        running_BHPN = dfinal_BHPN
        for c in reversed(range(C)):
            before_BHPN = torch.addcmul(dstate_BCHPN[:, c], carry_BCH[:, c, :, None, None], running_BHPN)
            dstate_BCHPN[:, c] = running_BHPN
            running_BHPN = before_BHPN

        # 2 and 1, backwards.
        sent_BCQI = (x_BCQHP * (dt_BCQH * to_end_BCQH)[..., None]).view(B, C, Q, H * P)
        dB_BCQN = sent_BCQI @ dstate_BCHPN.view(B, C, H * P, N)
        dX_BCQHP = (B_BCQN @ dstate_BCHPN.view(B, C, H * P, N).transpose(-1, -2)).view(B, C, Q, H, P)
        weights_BCHQQ = scores_BCQQ[:, :, None] * decays_BCHQQ
        dX_BCQHP.mul_(to_end_BCQH[..., None]).add_((weights_BCHQQ.transpose(-1, -2) @ dy_BCHQP).transpose(2, 3))
        dscores_BCQQ = (dy_BCHQP @ X_BCHQP.transpose(-1, -2)).mul_(decays_BCHQQ).sum(2)
        dC_BCQN += dscores_BCQQ @ B_BCQN
        dB_BCQN += dscores_BCQQ.transpose(-1, -2) @ C_BCQN

        # Step sizes and decays.
        ddt_BCQH = torch.linalg.vecdot(dX_BCQHP, x_BCQHP)
        skipped_BCQH = torch.linalg.vecdot(dy_BCQHP, x_BCQHP)
        da_BCQH = torch.linalg.vecdot(dy_BCQHP, y_BCQHP) - skipped_BCQH * D_H - ddt_BCQH * dt_BCQH
        da_BCQH[:, :-1, -1] += _dot(dstate_BCHPN[:, :-1], state_BCHPN[:, 1:])
        da_BCQH[:, -1, -1] += _dot(dstate_BCHPN[:, -1], final_BHPN)
        dlog_BCQH = da_BCQH.flip(2).cumsum(2).flip(2)  # a is a running sum of dt A
        dA_H = (dlog_BCQH * dt_BCQH).sum((0, 1, 2))
        ddt_BCHQ = (ddt_BCQH + dlog_BCQH * A_H).transpose(2, 3)
        dx_BCQHP = dX_BCQHP.mul_(dt_BCQH[..., None]).addcmul_(dy_BCQHP, D_H[:, None])
        return (dx_BCQHP, ddt_BCHQ, dA_H, dB_BCQN, dC_BCQN, skipped_BCQH.sum((0, 1, 2)), running_BHPN, None, None,
                None, None)


def _dot(one_XHPN: Tensor, two_XHPN: Tensor) -> Tensor:
    return torch.linalg.vecdot(one_XHPN.flatten(-2), two_XHPN.flatten(-2))


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
        D_H: adds D x to y, past the state; None: nothing.
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
    D_H = x_BLHP.new_zeros(H) if D_H is None else D_H.to(x_BLHP.dtype)
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
    open_BC = document_BCQ[..., -1]  # the document that is open at a chunk's end, and the one that was open before it
    entering_BC = torch.cat([document_BL[:, :1] if initial_document_B is None else initial_document_B[:, None],
                             open_BC[:, :-1]], dim=1)
    if initial_state_BHPN is None:
        initial_state_BHPN = x_BLHP.new_zeros(B, H, P, N)
    with torch.autocast(x_BLHP.device.type, enabled=False):  # it would round what has just been widened
        y_BCQHP, final_BHPN = _Scan.apply(
            x_BLHP.reshape(B, C, Q, H, P), dt_BLH.view(B, C, Q, H).transpose(2, 3).contiguous(), A_H,
            B_BLN.reshape(B, C, Q, N), C_BLN.reshape(B, C, Q, N), D_H, initial_state_BHPN,
            document_BCQ[..., :, None] == document_BCQ[..., None, :], document_BCQ == open_BC[..., None],
            document_BCQ == entering_BC[..., None], open_BC == entering_BC)
    y_BLHP = y_BCQHP.reshape(B, L + pad, H, P)[:, :L].to(dtype)
    return (y_BLHP, final_BHPN) if return_final_state else y_BLHP


def last_state(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor) -> Tensor:
    """The state after the last byte of rows of one document each, N first: [B, N, H P], fp32 at least, no gradient.

    What `ssd` returns with `return_final_state`, without the outputs: a byte's input decays by all bytes behind it.
    """
    wide = torch.promote_types(x_BLHP.dtype, torch.float32)
    decay_BLH = dt_BLH.to(wide) * A_H.to(wide)
    behind_BLH = F.pad(decay_BLH.flip(1).cumsum(1).flip(1)[:, 1:], (0, 0, 0, 1))
    sent_BLHP = x_BLHP.to(wide) * (dt_BLH.to(wide) * behind_BLH.exp())[..., None]
    return B_BLN.to(wide).transpose(1, 2) @ sent_BLHP.flatten(2)


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
