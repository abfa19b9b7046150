"""Compiled code computes what torch computes, a row to the bit as alone; choice and refusals."""

import pytest
import torch
from conftest import VARIANTS, make_student, make_teacher

import dbyte
from dbyte.decode.core_cache import CoreCache
from dbyte.decode.engine import Engine
from dbyte.decode.sampling import Sampling
from dbyte.decode.stream import ByteStream
from dbyte.decode.writer import Writer
from dbyte.model.blocks import SwiGLU
from dbyte.native import engine_for, library
from dbyte.native.engine import NativeCoreCache, NativeEngine, NativeMap, NativeStack

PROMPTS = [b"", b"x", b"The cat sat", "Where does Mira live? 😀 café".encode()]
STUDENTS = VARIANTS | {"mbp, split": VARIANTS["mbp"] | VARIANTS["split"],
                       "mbp, authors": VARIANTS["mbp"] | VARIANTS["authors"]}
CLOSE = dict(rtol=1e-4, atol=1e-4)

needs_compiler = pytest.mark.skipif(
    library.find_compiler() is None,
    reason="compiled code needs a C++ compiler: it is not compared with torch; install g++ to check it")


def student_of(variant, family="llama"):
    return make_student(make_teacher(family), **STUDENTS[variant])


@pytest.fixture
def threads():
    """Sets how many threads torch has, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def advance(stream, byte_B, ends_B):
    if stream.look_ahead is None:
        stream.step(byte_B, ends_B)
    else:
        stream.step(byte_B, guess_B=byte_B + 1)


# -- the same function ------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("variant, family", [*((variant, "llama") for variant in STUDENTS), ("paper", "qwen3"),
                                             ("paper", "olmo2")])
def test_compiled_steps_are_torchs_while_rows_leave(variant, family):
    """Prompts of different lengths, boundaries of their own in each row, the decoder's log-probabilities."""
    student = student_of(variant, family)
    plain, native = (ByteStream(student, PROMPTS, new_bytes=8, engine=engine_for(student, compiled))
                     for compiled in (False, True))
    assert isinstance(native.decoder, NativeStack) and isinstance(native.core_cache, NativeCoreCache)
    assert isinstance(native.encoder, NativeStack) == (student.config.encoder_mixer == "mamba2")
    assert all(isinstance(one, NativeMap) for one in (native.to_core, native.to_decoder, native.around,
                                                      native.byte_head))
    for rows in (4, 3, 3, 1, 1):
        for stream in (plain, native):
            stream.take(list(range(rows)))
            advance(stream, torch.arange(65, 65 + rows), torch.arange(rows) % 2 == 0)
        assert torch.equal(native.ended_B, plain.ended_B)
        torch.testing.assert_close(native.logits_BX, plain.logits_BX, **CLOSE)
        torch.testing.assert_close(native.second_logits_BK, plain.second_logits_BK, **CLOSE)
        torch.testing.assert_close(native.core_cache.values, plain.core_cache.values, **CLOSE)


@needs_compiler
@pytest.mark.parametrize("stage, variant", [(1, "paper"), (2, "paper"), (2, "authors"), (2, "mbp, split")])
def test_texts_are_the_same_compiled_or_not_together_or_alone(tokenizer, stage, variant):
    student = make_student(make_teacher(), tokenizer, **STUDENTS[variant])
    options = dict(max_new_bytes=24, stage=stage, as_bytes=True, stop=["t", "\n"], temperature=0.9,
                   top_k=40, top_p=0.95)
    together = dbyte.generate(student, PROMPTS, compiled=True, **options)
    assert together == dbyte.generate(student, PROMPTS, **options) and any(together)
    assert together == [dbyte.generate(student, [prompt], compiled=True, **options)[0] for prompt in PROMPTS]
    assert together[2] == b"".join(dbyte.generate_stream(student, PROMPTS[2], compiled=True, **options))


@needs_compiler
@pytest.mark.parametrize("sizes", [
    dict(state_size=24, head_width=32, ffn_width=72), dict(conv_width=2), dict(byte_width=40, head_width=16, expand=4)])
def test_sizes_that_fill_no_panel_and_more_rows_than_registers_hold(sizes):
    student = make_student(make_teacher(), **sizes)
    prompts = [b"The cat"[: n % 7] for n in range(19)]
    plain, native = (ByteStream(student, prompts, new_bytes=8, engine=engine_for(student, compiled))
                     for compiled in (False, True))
    torch.manual_seed(0)
    for _ in range(4):
        byte_B = torch.randint(0, 250, (19,))
        ends_B = torch.rand(19) < 0.5
        for stream in (plain, native):
            stream.step(byte_B, ends_B)
        torch.testing.assert_close(native.logits_BX, plain.logits_BX, **CLOSE)


@needs_compiler
def test_trying_a_byte_gives_the_next_output_and_changes_no_state():
    student = student_of("paper")
    stack = student.encoder
    with torch.inference_mode():
        step = NativeEngine(student).stack_step(stack)
        states = stack.empty_state(4)
        for state in states:  # so that the decay matters
            state.ssm_BNI.normal_(std=3.0)
        hidden_BD = torch.randn(4, student.config.byte_width)
        tried = [step(hidden_BD, states, commit=False) for _ in range(2)]
        taken_BD = step(hidden_BD, states)
        after_BD = step(hidden_BD, states)
    assert torch.equal(tried[0], tried[1]) and not torch.allclose(taken_BD, after_BD, atol=1e-3)
    torch.testing.assert_close(tried[0], taken_BD, **CLOSE)


@needs_compiler
@pytest.mark.parametrize("lengths", [(0, 0, 0), (5, 0, 130)])
def test_prompts_of_any_length_are_read_as_by_torch(lengths):
    student = student_of("paper")
    length_B = torch.tensor(lengths)
    torch.manual_seed(0)
    hidden_BLD = torch.randn(3, max(1, *lengths), student.config.byte_width)
    with torch.no_grad():
        plain, states = Engine(student).prefill(student.encoder, hidden_BLD, length_B)
        native, same = NativeEngine(student).prefill(student.encoder, hidden_BLD, length_B)
    real_BL = torch.arange(hidden_BLD.shape[1]) < length_B[:, None]
    torch.testing.assert_close(native[real_BL], plain[real_BL], **CLOSE)
    for one, other in zip(states, same, strict=True):
        torch.testing.assert_close(vars(one), vars(other), **CLOSE)


# -- bits -------------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("part", [torch.nn.Linear(40, 7, bias=False), SwiGLU(24, 20), SwiGLU(32, 64)])
def test_maps_are_their_modules_and_a_row_has_the_bits_of_a_row_alone(part):
    native = NativeEngine(None).map(part)
    hidden_RD = torch.randn(150, next(part.parameters()).shape[1])
    with torch.inference_mode():
        assert isinstance(native, NativeMap) and Engine(None).map(part) is part
        together_RO = native(hidden_RD)
        torch.testing.assert_close(together_RO, part(hidden_RD), **CLOSE)
        assert all(torch.equal(together_RO[row], native(hidden_RD[row : row + 1])[0]) for row in (0, 63, 64, 149))
        assert torch.equal(native(torch.stack([hidden_RD, hidden_RD], 1))[:, 1], together_RO), "rows of any shape"
        assert native(hidden_RD[:0]).shape == (0, together_RO.shape[1])


@needs_compiler
@pytest.mark.parametrize("variant", ["paper", "mbp, split"])
def test_the_number_of_threads_changes_no_bit(variant, threads, monkeypatch):
    monkeypatch.setattr(library, "ROWS_A_THREAD", 1)
    student = student_of(variant)
    prompts = [b"The cat"[: n % 7] for n in range(19)]
    torch.manual_seed(0)
    steps = [(torch.randint(0, 250, (19,)), torch.rand(19) < 0.4) for _ in range(12)]
    states = []
    for count in (1, 3):
        threads(count)
        assert library.num_threads(19) == count
        stream = ByteStream(student, prompts, new_bytes=20, engine=NativeEngine(student))
        for byte_B, ends_B in steps:
            advance(stream, byte_B, ends_B)
        states.append([getattr(holder, name) for holder, name, _ in stream.parts()])
    torch.testing.assert_close(*states, rtol=0, atol=0)


@needs_compiler
def test_nan_stays_nan_and_in_its_row():
    """The compiler may take numbers for finite; a broken model must be seen all the same."""
    student = student_of("paper")
    engine = NativeEngine(student)
    with torch.inference_mode():
        hidden_RD = torch.randn(3, student.config.byte_width)
        hidden_RD[1] = float("nan")
        for found in (engine.stack_step(student.encoder)(hidden_RD, student.encoder.empty_state(3)),
                      engine.map(student.encoder_projection)(hidden_RD),
                      engine.map(student.encoder.blocks[0].ffn)(hidden_RD)):
            assert found.isnan().any(1).tolist() == [False, True, False]


# -- packed weights, streams on disk ----------------------------------------------------------------------------------


@needs_compiler
def test_packed_weights_are_used_again_until_the_weights_change():
    student = student_of("paper")
    first, again = (ByteStream(student, PROMPTS[:1], new_bytes=8, engine=NativeEngine(student)) for _ in range(2))
    assert again.encoder is first.encoder and again.core_cache.native.packed is first.core_cache.native.packed
    with torch.no_grad():
        student.encoder.norm.weight.mul_(2)
        student.core.norm.weight.mul_(2)
    changed = ByteStream(student, PROMPTS[:1], new_bytes=8, engine=NativeEngine(student))
    assert changed.encoder is not first.encoder and changed.decoder is first.decoder
    assert changed.core_cache.native.packed is not first.core_cache.native.packed


@needs_compiler
def test_a_saved_writer_resumes_with_either_engine(tmp_path):
    student = student_of("paper")
    options = dict(sampling=Sampling(0.8, seed=4), limit=30, valid_utf8=False)
    whole = Writer(ByteStream(student, PROMPTS, new_bytes=30), PROMPTS, **options).run().written
    writer = Writer(ByteStream(student, PROMPTS, new_bytes=30, engine=NativeEngine(student)), PROMPTS, **options)
    for _ in range(7):
        writer.advance()
    writer.save(tmp_path / "stream")
    for engine in (NativeEngine(student), Engine(student)):
        assert Writer.load(student, tmp_path / "stream", engine=engine).run().written == whole


# -- the choice -------------------------------------------------------------------------------------------------------


@needs_compiler
def test_an_engine_is_native_where_it_can_be_unless_told_otherwise():
    student = student_of("paper")
    assert engine_for(student).compiled and engine_for(student, True).compiled
    assert type(engine_for(student, False)) is Engine
    assert type(engine_for(student.double())) is Engine, "the C++ takes fp32"
    with pytest.raises(ValueError, match="fp32 on a CPU"):
        engine_for(student, True)


@needs_compiler
def test_what_the_cpp_does_not_know_stays_torchs():
    student = student_of("paper")
    student.core.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(32))
    student.encoder_projection.bias = torch.nn.Parameter(torch.zeros(32))
    engine = NativeEngine(student)
    assert type(engine.core_cache(rows=1, slots=4)) is CoreCache
    assert engine.map(student.encoder_projection) is student.encoder_projection
    attention = student_of("attention")
    assert not isinstance(NativeEngine(attention).stack_step(attention.encoder), NativeStack)
    assert engine.map(student.byte_head.double()) is student.byte_head


@needs_compiler
def test_where_the_result_cannot_be_loaded_the_remedy_is_told(monkeypatch):
    def refused(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(library.ffi, "dlopen", refused)
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    monkeypatch.setattr(library, "compiles", library.compiles.__wrapped__)
    student = student_of("paper")
    with pytest.raises(OSError, match="failed to map.*set TMPDIR"):
        engine_for(student, True)
    assert type(engine_for(student)) is Engine


def test_without_a_compiler_the_remedy_is_told(monkeypatch):
    student = student_of("paper")
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    monkeypatch.setattr(library, "compiles", library.compiles.__wrapped__)
    monkeypatch.setattr(library.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="install g\\+\\+, or leave compiled out"):
        dbyte.generate(student, ["a"], max_new_bytes=4, compiled=True)
    with pytest.raises(FileNotFoundError, match="install g\\+\\+"):
        dbyte.generate_stream(student, "a", max_new_bytes=4, compiled=True)
    assert type(engine_for(student)) is Engine
    assert dbyte.generate(student, ["a"], max_new_bytes=4) is not None
