"""Products and hand-written backward passes for fp32 on a CPU: what backend "fast" of Mamba2 runs.

    fast_products    `F.linear` of many rows by a faster routine, wherever it is called
    split_linear     in_proj of a mixer, as one product for each of its parts
    convolve_silu    the causal convolution inside documents, then SiLU
    scan             the SSD of model/ssd.py
    gated_linear     the gated RMSNorm and out_proj of a mixer

Each computes the function of its plain counterpart in `model/`, within rounding; tests hold values and gradients
together. They gain by touching memory less often than recorded backward passes do. They take fp32 (or fp64) on a CPU,
outside of autocast.

Shape letters: B rows, L bytes, T positions, D width in, O width out, X convolved channels, W taps, C chunks of Q bytes,
H heads, P head width, N state size, I inner width (H P), R bytes that are convolved again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

ROWS_WORTH_IT = 64  # with fewer rows `F.linear` is as fast
CACHED = 2**18  # numbers of a piece of a row that fit a CPU's cache three times
MULTIPLIES_BF16 = torch.backends.cpu.get_cpu_capability() == "AVX512"  # else fp32 is many times as fast: docs/log.md
MUONS = (Tensor.matmul, torch.addmm)  # the products of torch.optim.Muon, which casts to bf16


def is_fp32_cpu(tensor: Tensor) -> bool:
    """Whether the functions of this module take a tensor: fp32 on a CPU, outside of autocast."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


# -- products ---------------------------------------------------------------------------------------------------------


class fast_products(TorchFunctionMode):
    """Within this context `F.linear` is `linear` in every module: faster for fp32 on a CPU, and unchanged elsewhere.

    Values stay the same within rounding, and contexts may be nested. What is recomputed in backward must enter the
    context again: it is off there (see model/checkpointing.py). Muon's bf16 products go by fp32 if a CPU has none.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not MULTIPLIES_BF16 and func in MUONS and all(one.dtype == torch.bfloat16 and one.is_cpu for one in args):
            return func(*(one.float() for one in args), **kwargs).bfloat16()
        return linear(*args, **kwargs) if func is F.linear else func(*args, **kwargs)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`; for ROWS_WORTH_IT rows or more in fp32 on a CPU, and without a bias, by `product`."""
    rows = input.numel() // max(input.shape[-1], 1)
    if bias is not None or rows < ROWS_WORTH_IT or weight.dim() != 2 or weight.dtype != input.dtype \
            or not is_fp32_cpu(input):
        return F.linear(input, weight, bias)
    return _Linear.apply(input.reshape(rows, -1), weight).view(*input.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_TD: Tensor, weight_OD: Tensor) -> Tensor:
        ctx.save_for_backward(hidden_TD, weight_OD)
        return product(hidden_TD, weight_OD)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TO: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden_TD, weight_OD = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad
        return (product(grad_TO, weight_OD.T.contiguous()) if wants_hidden else None,
                grad_TO.T @ hidden_TD if wants_weight else None)


def product(hidden_TD: Tensor, weight_OD: Tensor) -> Tensor:
    """hidden_TD times weight_OD transposed, [T, O]; records no gradient, and takes any device and dtype.

    On a CPU torch hands matrix products to one library and convolutions to another. For bytes by the thousand and the
    widths of an encoder the second is faster (benchmarks/mixer.md), so fp32 rows go as one image of one line through
    a 1x1 convolution.
    """
    if hidden_TD.device.type != "cpu" or hidden_TD.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return hidden_TD @ weight_OD.T
    T, D = hidden_TD.shape
    image_1D1T = hidden_TD.contiguous().as_strided((1, D, 1, T), (T * D, 1, T * D, D))  # channels last, without a copy
    # a stride over one line changes nothing, but without one torch takes a slow convolution of its own at one thread
    return F.conv2d(image_1D1T, weight_OD[:, :, None, None], stride=(2, 1))[0, :, 0].T


def split_linear(hidden_BLD: Tensor, weight_OD: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """The outputs of each of `sizes` rows of a weight; products of their own, so that backward joins no gradients."""
    return tuple(linear(hidden_BLD, part) for part in weight_OD.split(sizes))


# -- convolution ------------------------------------------------------------------------------------------------------


def convolve_silu(hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None) -> Tensor:
    """SiLU of the depthwise causal convolution inside each document: [B, L, X]; see model/convolution.py.

    Rows go through the library's convolution as if each were one document. Then the first W - 1 bytes of every
    document but a row's first are computed again from the taps that they may use: subtracting the others would leave
    their rounding, or what is not finite.
    """
    return F.silu(_Convolution.apply(hidden_BLX, weight_XW, bias_X, document_BL))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden_BLX, weight_XW, document_BL)
        out_BLX = _along_rows(hidden_BLX, weight_XW, bias_X)
        _isolate(out_BLX, hidden_BLX, weight_XW, bias_X, document_BL, towards=-1)
        return out_BLX

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BLX: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradient of the input is the same convolution of the output's gradient with time reversed."""
        hidden_BLX, weight_XW, document_BL = ctx.saved_tensors
        zero_X = weight_XW.new_zeros(len(weight_XW))
        dhidden_BLX = _along_rows(grad_BLX, weight_XW.flip(1), zero_X, ahead=True)
        _isolate(dhidden_BLX, grad_BLX, weight_XW, zero_X, document_BL, towards=1)
        dweight_XW = _weight_gradient(grad_BLX, hidden_BLX, document_BL, weight_XW.shape[1])
        one_1T = grad_BLX.new_ones(1, grad_BLX.shape[0] * grad_BLX.shape[1])  # a product adds up faster than a sum
        return dhidden_BLX, dweight_XW, (one_1T @ grad_BLX.flatten(0, 1))[0], None


def _along_rows(hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, *, ahead: bool = False) -> Tensor:
    """Convolve rows as if each were one document: each byte with those before it, or with those after it (ahead).

    A row is an image of one line with its channels last, the layout that the library's convolution is fast in.
    """
    L, W = hidden_BLX.shape[1], weight_XW.shape[1]
    image_BX1L = hidden_BLX.transpose(1, 2)[:, :, None]
    out_BX1L = F.conv2d(image_BX1L, weight_XW[:, None, None], bias_X, padding=(0, W - 1), groups=len(weight_XW))
    first = W - 1 if ahead else 0
    return out_BX1L[:, :, 0, first : first + L].transpose(1, 2)


def _isolate(
    out_BLX: Tensor, hidden_BLX: Tensor, weight_XW: Tensor, bias_X: Tensor, document_BL: Tensor | None, *, towards: int
) -> None:
    """Compute again, in place, the bytes whose taps reach into the document before theirs (-1) or after it (1)."""
    if document_BL is None:
        return
    W, L = weight_XW.shape[1], document_BL.shape[1]
    reaches_BL = torch.zeros_like(document_BL, dtype=torch.bool)
    for reach in range(1, min(W, L)):
        crosses_BL = document_BL[:, reach:] != document_BL[:, :-reach]
        (reaches_BL[:, reach:] if towards < 0 else reaches_BL[:, :-reach]).logical_or_(crosses_BL)
    row_R, byte_R = reaches_BL.nonzero(as_tuple=True)
    again_RX = bias_X.expand(len(row_R), -1)
    for reach in range(W):
        other_R = byte_R + towards * reach
        inside_R = (other_R >= 0) & (other_R < L)
        other_R = other_R.clamp(0, L - 1)
        inside_R &= document_BL[row_R, other_R] == document_BL[row_R, byte_R]
        taps_RX = torch.where(inside_R[:, None], hidden_BLX[row_R, other_R], 0)
        again_RX = torch.addcmul(again_RX, taps_RX, weight_XW[:, W - 1 - reach])
    out_BLX[row_R, byte_R] = again_RX


def _weight_gradient(grad_BLX: Tensor, hidden_BLX: Tensor, document_BL: Tensor | None, taps: int) -> Tensor:
    """The gradient of the weight [X, W]: for each tap, the sum of grad times hidden where both lie in one document."""
    B, L, X = grad_BLX.shape
    place_T = torch.arange(L).repeat(B)
    document_T = torch.zeros_like(place_T) if document_BL is None else document_BL.reshape(-1)
    grad_TX = grad_BLX.reshape(B * L, X)
    hidden_TX = hidden_BLX.reshape(B * L, X)
    dweight_WX = grad_TX.new_zeros(taps, X)
    size = max(CACHED // X, taps)
    for start in range(0, B * L, size):
        for back in range(taps):
            here = slice(max(start, back), min(start + size, B * L))
            there = slice(here.start - back, here.stop - back)
            if here.start < here.stop:
                same_T = (place_T[here] >= back) & (document_T[here] == document_T[there])
                dweight_WX[taps - 1 - back].addmv_((grad_TX[here] * hidden_TX[there]).T, same_T.to(grad_TX.dtype))
    return dweight_WX.T


# -- scan -------------------------------------------------------------------------------------------------------------


def scan(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_H: Tensor,
    document_BL: Tensor | None, *, chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """SSD plus the skip D x: y_BLHP, and the state after the last byte BHPN; arguments as in `dbyte.ssd`."""
    B, L, H, P = x_BLHP.shape
    N = B_BLN.shape[-1]
    if document_BL is None:
        document_BL = torch.zeros(B, L, dtype=torch.long)
    pad = -L % chunk_size
    if pad:  # dt 0 neither decays nor adds, so the final state is that of the last true byte
        x_BLHP = F.pad(x_BLHP, (0, 0, 0, 0, 0, pad))
        B_BLN, C_BLN, dt_BLH = (F.pad(given, (0, 0, 0, pad)) for given in (B_BLN, C_BLN, dt_BLH))
        document_BL = torch.cat([document_BL, document_BL[:, -1:].expand(B, pad)], dim=1)
    C = (L + pad) // chunk_size
    Q = chunk_size
    document_BCQ = document_BL.view(B, C, Q)
    open_BC = document_BCQ[..., -1]  # the document that is open at a chunk's end, and the one that was open before it
    entering_BC = torch.cat([document_BL[:, :1], open_BC[:, :-1]], dim=1)
    with torch._C.DisableTorchFunction():  # `fast_products` has nothing to do here, and would look at every call
        y_BCQHP, final_BHPN = _Scan.apply(
            x_BLHP.reshape(B, C, Q, H, P), dt_BLH.view(B, C, Q, H).transpose(2, 3).contiguous(), A_H,
            B_BLN.reshape(B, C, Q, N), C_BLN.reshape(B, C, Q, N), D_H,
            document_BCQ[..., :, None] == document_BCQ[..., None, :], document_BCQ == open_BC[..., None],
            document_BCQ == entering_BC[..., None], open_BC == entering_BC)
    return y_BCQHP.reshape(B, L + pad, H, P)[:, :L], final_BHPN


class _Scan(torch.autograd.Function):
    """The scan over chunks, in the four steps of model/ssd.py.

    Gradients of the log decays a_i need no product of their own. All that byte i receives is proportional to exp(a_i),
    all that byte j sends to exp(-a_j), and a chunk's final state to exp(a_last), so with X = x dt
        d a_i = <dy_i, y_i - D x_i> - <dX_i, X_i>        d a_last += <d state, state>
    """

    @staticmethod
    def forward(ctx, x_BCQHP, dt_BCHQ, A_H, B_BCQN, C_BCQN, D_H, same_BCQQ, open_BCQ, entered_BCQ, carried_BC):
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
        running_BHPN = x_BCQHP.new_zeros(B, H, P, N)
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
        N = B_BCQN.shape[-1]
        dt_BCQH = dt_BCHQ.transpose(2, 3)
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
        return (dx_BCQHP, ddt_BCHQ, dA_H, dB_BCQN, dC_BCQN, skipped_BCQH.sum((0, 1, 2)), None, None, None, None)


def _dot(one_XHPN: Tensor, two_XHPN: Tensor) -> Tensor:
    return torch.linalg.vecdot(one_XHPN.flatten(-2), two_XHPN.flatten(-2))


# -- the way out of a mixer -------------------------------------------------------------------------------------------


def gated_linear(hidden: Tensor, gate: Tensor, norm_I: Tensor, weight_DI: Tensor, *, eps: float) -> Tensor:
    """RMSNorm(hidden * silu(gate)) with the weight norm_I, times weight_DI transposed: [..., I] to [..., D].

        out = scale * ((hidden * silu(gate)) (weight * norm)^T)        scale = 1 / rms(hidden * silu(gate))

    The norm's weight moves into the product, and its scale after it, where rows are narrower.
    """
    inner = gate.shape[-1]
    out_TD = _GatedLinear.apply(hidden.reshape(-1, inner), gate.reshape(-1, inner), weight_DI * norm_I, eps)
    return out_TD.view(*gate.shape[:-1], -1)


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_TI: Tensor, gate_TI: Tensor, weight_DI: Tensor, eps: float) -> Tensor:
        gated_TI = F.silu(gate_TI).mul_(hidden_TI)
        square_T1 = torch.linalg.vector_norm(gated_TI, dim=-1, keepdim=True).square_()
        scale_T1 = torch.rsqrt(square_T1 / gated_TI.shape[-1] + eps)
        out_TD = product(gated_TI, weight_DI)
        ctx.save_for_backward(hidden_TI, gate_TI, weight_DI, gated_TI, scale_T1, out_TD)
        return out_TD * scale_T1

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden_TI, gate_TI, weight_DI, gated_TI, scale_T1, out_TD = ctx.saved_tensors
        # d scale / d gated = -scale^3 gated / I
        along_T1 = (grad_TD * out_TD).sum(-1, keepdim=True) * scale_T1**3 / -gated_TI.shape[-1]
        grad_TD = grad_TD * scale_T1
        dgated_TI = product(grad_TD, weight_DI.T.contiguous()).addcmul_(gated_TI, along_T1)
        dhidden_TI = F.silu(gate_TI).mul_(dgated_TI)
        dgate_TI = torch.ops.aten.silu_backward(dgated_TI.mul_(hidden_TI), gate_TI)
        return dhidden_TI, dgate_TI, grad_TD.T @ gated_TI, None
