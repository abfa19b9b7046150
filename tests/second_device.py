"""A second device for machines that have none: its tensors compute on the CPU and do not mix with the CPU's.

    python second_device.py FOLDER     trains every step, scores and writes, for tests/test_devices.py to look at

What a GPU refuses is refused: tensors of two devices in one operation, but for numbers without dimensions, copies and
indices that lie on the CPU; numpy of its tensors; their addresses. Autocast halves what CUDA's halves. Rounding,
alignment and speed are not emulated, nor are the streams of a GPU.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import PreTrainedModel

from dbyte.text.packing import document, pack
from dbyte.text.spans import TokenBytes

NAME = "second"
aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
MADE = ("empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step")
HALVED = ("linear", "matmul", "mm", "bmm", "conv2d", "scaled_dot_product_attention")


class There(torch.Tensor):
    """A tensor of the second device; `here` is what it holds."""

    def __new__(cls, here):
        there = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=torch.device(NAME, 0))
        there.here = here
        return there

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.here = value.here

    def tolist(self):
        return self.here.tolist()

    def numpy(self, **_):
        raise TypeError("numpy of a device's tensor: copy it to the CPU first")

    __array__ = numpy
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if function in INDEXED:  # indices may lie on the CPU, what is indexed and what is put there may not
            given = [each for each in (args[0], *args[2:3]) if isinstance(each, torch.Tensor)]
        if function not in COPIES and any(not isinstance(each, There) and each.dim() for each in given):
            raise RuntimeError(f"{function}: tensors of two devices")
        where = args[0].device.type if function in COPIES[:1] else torch.device(kwargs.get("device") or NAME).type
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        known = {id(each.here): each for each in tree_leaves((args, kwargs)) if isinstance(each, There)}
        args, kwargs = tree_map(lambda each: each.here if isinstance(each, There) else each, (args, kwargs))
        found = function(*args, **kwargs)
        if where != NAME:
            return found
        return tree_map(lambda each: known[id(each)] if id(each) in known else
                        There(each) if isinstance(each, torch.Tensor) else each, found)


def set_up() -> None:
    """Make the device known to torch, for the rest of the process."""
    _setup_privateuseone_for_python_backend(rename=NAME, backend_module=SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, device_count=lambda: 1, current_device=lambda: 0,
        get_amp_supported_dtype=lambda: [torch.bfloat16], _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None, get_rng_state=lambda device: torch.empty(0),
        set_rng_state=lambda state, device: None, device=lambda device: nullcontext()))
    libraries = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    for name in MADE:
        libraries[0].impl(name, _made(_operator(name)), "PrivateUse1")
    libraries[0].impl("_copy_from", _copy, "PrivateUse1")
    for name in HALVED:
        libraries[0].impl(name, _halved(_operator(name)), "AutocastPrivateUse1")
    libraries[0].impl("binary_cross_entropy", _refused, "AutocastPrivateUse1")
    libraries[1].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    set_up.kept = libraries
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.inference_mode = lambda *function: torch.no_grad()(*function) if function else torch.no_grad()
    save = PreTrainedModel.save_pretrained
    PreTrainedModel.save_pretrained = lambda model, folder: save(model, folder, state_dict=_copied(model))


def _operator(name):
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


def _made(operator):
    return lambda *args, **kwargs: There(operator(*args, **kwargs | {"device": torch.device("cpu")}))


def _copy(source, target, _=False):
    COPIES[0](*(each.here if isinstance(each, There) else each for each in (target, source)))
    return target


def _halved(operator):
    def run(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return operator(*tree_map(_half, args), **tree_map(_half, kwargs))

    return run


def _half(each):
    return each.bfloat16() if isinstance(each, torch.Tensor) and each.is_floating_point() else each


def _refused(*_, **__):
    raise RuntimeError("binary_cross_entropy is not safe under CUDA's autocast")


def _copied(model):
    """The state on the CPU; tied weights stay tied, which save_pretrained would see by addresses."""
    copies = {}
    return {name: copies.setdefault(id(getattr(weight, "here", weight)), weight.detach().cpu())
            for name, weight in model.state_dict(keep_vars=True).items()}


def main(folder: Path) -> None:
    """What is learnt and said on either device, here in both precisions: FOLDER/found.json."""
    set_up()
    import conftest

    tokenizer = conftest.train_tokenizer(conftest.TEXTS * 2, vocabulary=300)
    found = {name: _learnt(folder / name, tokenizer, device, precision) for name, device, precision in (
        ("cpu", "cpu", "fp32"), ("fp32", NAME, "fp32"), ("bf16", NAME, "bf16"))}
    found["cpu"] |= _said(tokenizer, "cpu")
    found["fp32"] |= _said(tokenizer, NAME)
    (folder / "found.json").write_text(json.dumps(found))


def _rows(token_bytes, texts):
    return pack([document(aligned, token_bytes) for aligned in token_bytes.align_batch(texts)], row_bytes=160)


def _learnt(folder: Path, tokenizer, device: str, precision: str) -> dict:
    """The losses of every step, stopped and resumed; in bf16 of those alone that all parts have a share in."""
    from conftest import TEXTS, make_student, make_teacher

    from dbyte.distill import trainer
    from dbyte.distill.loader import Feed
    from dbyte.distill.objectives import token
    from dbyte.distill.runs import Run
    from dbyte.distill.steps import Group, Step, stage1, stage2

    rows, budget, made = _rows(TokenBytes.from_tokenizer(tokenizer), TEXTS), 2 * 2 * 160, {}
    steps = (Step("0 teacher", 0, token, (Group(("",), 1e-3, 0.02),), budget, 0.1),
             *stage1(align_bytes=budget, distill_bytes=budget, boundary_bytes=budget, encoder_muon=0.02,
                     boundary_loss=True),
             *stage2(head_bytes=budget, full_bytes=budget),
             stage2(head_bytes=budget, full_bytes=budget, decoding="mbp")[1])
    trainer.CHECKPOINT_SECONDS, trainer.CHECKPOINT_SHARE, once = 0.0, float("inf"), trainer.train_on
    for place, step in enumerate(steps):
        if precision == "bf16" and place not in (2, 5):
            continue
        run, losses = Run({"step": step.describe(), "place": place}, root=folder), []

        def stopping(*args, losses=losses, **kwargs):
            if len(losses) == 1 and 0.0 not in losses:
                losses.append(0.0)  # stands for the stop
                raise InterruptedError
            one = once(*args, **kwargs)
            losses.append(one.loss)
            return one

        trainer.train_on = stopping
        for _ in range(2):
            decoding = "mbp" if place == 6 else "jbp"
            model = make_teacher() if not place else make_student(make_teacher(), tokenizer, decoding=decoding)
            try:
                trainer.train(run, step, Feed(rows, 2, 0), model=model, teacher=make_teacher(), device=device,
                              precision=precision, launch=trainer.Launch(rows_at_once=1, recompute=True))
            except InterruptedError:
                continue
        made[step.name + str(place)] = losses
    trainer.train_on = once
    return made


def _said(tokenizer, device: str) -> dict:
    """What untrained models say of texts, in every way to ask."""
    from conftest import TEXTS, make_student, make_teacher

    from dbyte.decode.generate import generate
    from dbyte.evaluate.bits import heldout_pieces, teacher_nats
    from dbyte.evaluate.boundaries import byte_rows
    from dbyte.evaluate.score import Request, Scorer
    from dbyte.evaluate.score_own_boundaries import OwnBoundariesScorer
    from dbyte.model.packed_attention import attention_blocks

    token_bytes, made = TokenBytes.from_tokenizer(tokenizer), {}
    teacher, jbp, mbp = (model.to(device).eval() for model in (
        make_teacher(), make_student(make_teacher(), tokenizer),
        make_student(make_teacher(), tokenizer, decoding="mbp")))
    asked = [Request(text.encode(), 1) for text in TEXTS[:2]]
    scorers = Scorer(jbp, stage=1), Scorer(jbp, stage=2), *(
        OwnBoundariesScorer(student) for student in (jbp, mbp))
    made["nats"] = [score.nats for scorer in scorers for score in scorer.score(asked)]
    made["teacher's nats"] = teacher_nats(teacher, heldout_pieces(TEXTS, token_bytes, row_bytes=160))
    made["router"] = [row["value"] for row in byte_rows(jbp, _rows(token_bytes, TEXTS[:1]))]
    position_BM = torch.arange(3000)[None] % 37
    made["blocks"] = attention_blocks(position_BM.to(device))
    for student, stage in ((jbp, 1), (jbp, 2), (mbp, 2)):
        generate(student, TEXTS[:2], stage=stage, max_new_bytes=6, temperature=0.7, top_k=9)
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]))
