"""Compiled steps: the plain ones' function for every student and core, a row to the bit as alone, clear refusals."""

import shutil

import pytest
import torch
from conftest import FAMILIES, VARIANTS, make_student, make_teacher

from dbyte.decode.generate import generate, generate_stream
from dbyte.decode.sampling import Sampling
from dbyte.decode.stream import ByteStream
from dbyte.decode.writer import Writer
from dbyte.model import native
from dbyte.model.core import CoreCache
from dbyte.model.core_step import CoreStep
from dbyte.model.fused_core import FusedCore
from dbyte.model.fused_stack import FusedStack
from dbyte.model.stack_step import StackStep

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="compiled steps need a C++ compiler: they are not compared with the plain ones; install g++ to check them")

PROMPTS = [b"", b"x", b"The cat sat", "Where does Mira live? 😀 caf\u00e9".encode()]
STUDENTS = VARIANTS | {"mbp, split": VARIANTS["mbp"] | VARIANTS["split"],
                       "mbp, authors": VARIANTS["mbp"] | VARIANTS["authors"]}
SAMPLED = dict(temperature=0.9, top_k=40, top_p=0.95, seed=5)
CLOSE = dict(rtol=1e-4, atol=1e-4)


def student_of(variant, family="llama"):
    return make_student(make_teacher(family), **STUDENTS[variant])


# -- the same function ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", STUDENTS)
def test_compiled_steps_are_the_plain_ones_while_rows_leave(variant):
    student = student_of(variant)
    plain, fused = (ByteStream(student, PROMPTS, new_bytes=8, compiled=compiled) for compiled in (False, True))
    assert isinstance(fused.decoder, FusedStack) and isinstance(fused.core_cache._direct, FusedCore)
    assert isinstance(fused.encoder, FusedStack if student.config.encoder_mixer == "mamba2" else StackStep)
    for rows in (4, 3, 3, 1, 1):
        for stream in (plain, fused):
            stream.keep(list(range(rows)))
            byte_B = torch.arange(65, 65 + rows)
            if stream.look_ahead is None:
                stream.step(byte_B, torch.arange(rows) % 2 == 0)
            else:
                stream.step(byte_B, guess_B=byte_B + 1)
        assert torch.equal(fused.ended_B, plain.ended_B)
        torch.testing.assert_close(fused.logits_BX, plain.logits_BX, **CLOSE)
        torch.testing.assert_close(fused.second_logits_BK, plain.second_logits_BK, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_core_step_is_the_plain_one(family):
    core, document = make_teacher(family).model, torch.tensor([[0] * n + [-1] * (6 - n) for n in (6, 2, 1, 4)])
    torch.manual_seed(0)
    inputs = torch.randn(4, 6, 32)
    with torch.inference_mode():
        plain, fused = (CoreCache(core, rows=4, slots=20, compiled=compiled) for compiled in (False, True))
        assert isinstance(plain._direct, CoreStep) and isinstance(fused._direct, FusedCore)
        for cache in (plain, fused):
            cache.prefill(core, inputs, document)
        for rows in ([0, 2, 3], [1], [0, 1, 2, 3], [2]):
            one = torch.randn(len(rows), 32)
            kept = one.clone()
            torch.testing.assert_close(fused.step(core, one, rows), plain.step(core, one, rows), **CLOSE)
            assert torch.equal(one, kept), "what is given stays"
        torch.testing.assert_close(fused.keys, plain.keys, **CLOSE)
        torch.testing.assert_close(fused.values, plain.values, **CLOSE)


@pytest.mark.parametrize("sizes", [
    dict(state_size=24, head_width=32, ffn_width=72), dict(conv_width=2), dict(byte_width=40, head_width=16, expand=4)])
def test_sizes_that_fill_no_whole_panel_and_more_rows_than_registers_hold(sizes):
    student = make_student(make_teacher(), **sizes)
    prompts = [b"The cat"[: n % 7] for n in range(19)]
    plain, fused = (ByteStream(student, prompts, new_bytes=8, compiled=compiled) for compiled in (False, True))
    torch.manual_seed(0)
    for _ in range(4):
        byte_B, ends_B = torch.randint(0, 250, (19,)), torch.rand(19) < 0.5
        for stream in (plain, fused):
            stream.step(byte_B, ends_B)
        torch.testing.assert_close(fused.logits_BX, plain.logits_BX, **CLOSE)


def test_a_byte_that_is_tried_gives_the_next_output_and_changes_nothing():
    student = student_of("paper")
    with torch.inference_mode():
        stream = ByteStream(student, PROMPTS, new_bytes=4, compiled=True)
        for state in stream.encoder_states:  # so that what the decay does shows
            state.ssm_BNI.normal_(std=3.0)
        hidden = torch.randn(4, student.config.byte_width)
        tried = [stream.encoder.step(hidden, stream.encoder_states, commit=False) for _ in range(2)]
        taken = stream.encoder.step(hidden, stream.encoder_states)
        after = stream.encoder.step(hidden, stream.encoder_states)
    assert torch.equal(tried[0], tried[1]) and not torch.allclose(taken, after, atol=1e-3)
    torch.testing.assert_close(tried[0], taken, **CLOSE)


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, variant", [(1, "paper"), *((2, variant) for variant in STUDENTS)])
@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_compiled_or_not_alone_or_together_the_texts_are_the_same(tokenizer, stage, variant, options):
    student = make_student(make_teacher(), tokenizer, **STUDENTS[variant])
    options = dict(max_new_bytes=24, stage=stage, as_bytes=True, stop=["t", "\n"]) | options
    together = generate(student, PROMPTS, compiled=True, **options)
    assert together == generate(student, PROMPTS, **options) and any(together)
    assert together == [generate(student, [prompt], compiled=True, **options)[0] for prompt in PROMPTS]
    assert together[2] == b"".join(generate_stream(student, PROMPTS[2], compiled=True, **options))


def test_a_row_has_the_same_bits_whatever_rows_are_beside_it():
    student = student_of("paper")
    torch.manual_seed(0)
    with torch.inference_mode():
        hidden, step = torch.randn(13, student.config.byte_width), FusedStack(student.encoder)
        together = step.step(hidden, student.encoder.empty_state(13))
        for row in range(13):
            assert torch.equal(together[row], step.step(hidden[row : row + 1], student.encoder.empty_state(1))[0])


def test_a_saved_stream_goes_on_compiled(tmp_path):
    student = student_of("paper")
    options = dict(sampling=Sampling(0.8, seed=4), limit=30, valid_utf8=False)
    whole = Writer(ByteStream(student, PROMPTS, new_bytes=30), PROMPTS, **options).run().written
    writer = Writer(ByteStream(student, PROMPTS, new_bytes=30, compiled=True), PROMPTS, **options)
    for _ in range(7):
        writer.advance()
    writer.save(tmp_path / "stream")
    for compiled in (True, False):
        assert Writer.load(student, tmp_path / "stream", compiled=compiled).run().written == whole


# -- what is kept and what is refused ---------------------------------------------------------------------------------


def test_packed_weights_are_used_again_until_the_weights_change():
    student = student_of("paper")
    first, again = (ByteStream(student, PROMPTS[:1], new_bytes=8, compiled=True) for _ in range(2))
    assert again.encoder is first.encoder and again.core_cache._direct.packed is first.core_cache._direct.packed
    with torch.no_grad():
        student.encoder.norm.weight.mul_(2)
        student.core.norm.weight.mul_(2)
    changed = ByteStream(student, PROMPTS[:1], new_bytes=8, compiled=True)
    assert changed.encoder is not first.encoder and changed.decoder is first.decoder
    assert changed.core_cache._direct.packed is not first.core_cache._direct.packed


def test_cores_that_it_does_not_know_step_plainly():
    core = make_teacher().model.double()
    assert isinstance(CoreCache(core, rows=1, slots=4, compiled=True)._direct, CoreStep)
    core = make_teacher().model
    core.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(32))
    assert isinstance(CoreCache(core, rows=1, slots=4, compiled=True)._direct, CoreStep)


def test_without_a_compiler_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    for module in ("fused_stack", "fused_core"):
        monkeypatch.setattr(f"dbyte.model.{module}.library", native.library)
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="install g\\+\\+, or leave compiled out"):
        generate(student_of("paper"), ["a"], max_new_bytes=4, compiled=True)
    assert generate(student_of("paper"), ["a"], max_new_bytes=4) is not None
