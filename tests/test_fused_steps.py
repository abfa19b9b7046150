"""Compiled steps: the plain ones' function for every student and core, a row to the bit as alone, on any number of
threads, which sleep when there is nothing to do; clear refusals."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, VARIANTS, make_student, make_teacher

from dbyte import generate, generate_stream
from dbyte.decode.core_step import CoreStep
from dbyte.decode.sampling import Sampling
from dbyte.decode.stack_step import StackStep
from dbyte.decode.stream import ByteStream
from dbyte.decode.writer import Writer
from dbyte.model.blocks import Stack, StackShape, SwiGLU
from dbyte.model.projection import Projection
from dbyte.native import engine_for
from dbyte.native import library as native
from dbyte.native.core import FusedCore
from dbyte.native.linear import FusedMap, step_map, weight_map
from dbyte.native.stack import FusedStack, prefill
from dbyte.text.prefix_tree import Tree

pytestmark = pytest.mark.skipif(
    native.compiler_here() is None,
    reason="compiled steps need a C++ compiler: they are not compared with the plain ones; install g++ to check them")

PROMPTS = [b"", b"x", b"The cat sat", "Where does Mira live? 😀 caf\u00e9".encode()]
STUDENTS = VARIANTS | {"mbp, split": VARIANTS["mbp"] | VARIANTS["split"],
                       "mbp, authors": VARIANTS["mbp"] | VARIANTS["authors"]}
SAMPLED = dict(temperature=0.9, top_k=40, top_p=0.95, seed=5)
CLOSE = dict(rtol=1e-4, atol=1e-4)
THREADS = Path("/proc/self/task")


def student_of(variant, family="llama"):
    return make_student(make_teacher(family), **STUDENTS[variant])


# -- the same function ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", STUDENTS)
def test_compiled_steps_are_the_plain_ones_while_rows_leave(variant):
    student = student_of(variant)
    plain, fused = (ByteStream(student, PROMPTS, new_bytes=8, engine=engine_for(student, compiled))
                    for compiled in (False, True))
    assert isinstance(fused.decoder, FusedStack) and isinstance(fused.core_cache.core_step, FusedCore)
    maps = [fused.to_core, fused.to_decoder, fused.around, fused.byte_head]
    if fused.look_ahead is not None:
        maps += [fused.second_head, *([] if fused.look_ahead.split else [fused.look_ahead.query, fused.look_ahead.key])]
    assert all(isinstance(one, FusedMap) for one in maps), "torch's products would start threads of their own"
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
    student = make_student(make_teacher(family))
    document = torch.tensor([[0] * n + [-1] * (6 - n) for n in (6, 2, 1, 4)])
    torch.manual_seed(0)
    inputs = torch.randn(4, 6, 32)
    with torch.inference_mode():
        plain, fused = (engine_for(student, compiled).core_cache(rows=4, slots=20) for compiled in (False, True))
        assert isinstance(plain.core_step, CoreStep) and isinstance(fused.core_step, FusedCore)
        for cache in (plain, fused):
            cache.prefill(inputs, document)
        for rows in ([0, 2, 3], [1], [0, 1, 2, 3], [2]):
            one = torch.randn(len(rows), 32)
            kept = one.clone()
            torch.testing.assert_close(fused.step(one, rows), plain.step(one, rows), **CLOSE)
            assert torch.equal(one, kept), "what is given stays"
        torch.testing.assert_close(fused.keys, plain.keys, **CLOSE)
        torch.testing.assert_close(fused.values, plain.values, **CLOSE)


@pytest.mark.parametrize("sizes", [
    dict(state_size=24, head_width=32, ffn_width=72), dict(conv_width=2), dict(byte_width=40, head_width=16, expand=4)])
def test_sizes_that_fill_no_whole_panel_and_more_rows_than_registers_hold(sizes):
    student = make_student(make_teacher(), **sizes)
    prompts = [b"The cat"[: n % 7] for n in range(19)]
    plain, fused = (ByteStream(student, prompts, new_bytes=8, engine=engine_for(student, compiled))
                    for compiled in (False, True))
    torch.manual_seed(0)
    for _ in range(4):
        byte_B, ends_B = torch.randint(0, 250, (19,)), torch.rand(19) < 0.5
        for stream in (plain, fused):
            stream.step(byte_B, ends_B)
        torch.testing.assert_close(fused.logits_BX, plain.logits_BX, **CLOSE)


def test_a_byte_that_is_tried_gives_the_next_output_and_changes_nothing():
    student = student_of("paper")
    with torch.inference_mode():
        stream = ByteStream(student, PROMPTS, new_bytes=4, engine=engine_for(student, True))
        for state in stream.encoder_states:  # so that what the decay does shows
            state.ssm_BNI.normal_(std=3.0)
        hidden = torch.randn(4, student.config.byte_width)
        tried = [stream.encoder.step(hidden, stream.encoder_states, commit=False) for _ in range(2)]
        taken = stream.encoder.step(hidden, stream.encoder_states)
        after = stream.encoder.step(hidden, stream.encoder_states)
    assert torch.equal(tried[0], tried[1]) and not torch.allclose(taken, after, atol=1e-3)
    torch.testing.assert_close(tried[0], taken, **CLOSE)


@pytest.mark.parametrize("part", [Projection(40, 7), Projection(16, 96), SwiGLU(24, 20), SwiGLU(32, 64)])
def test_maps_are_their_modules_and_a_row_has_the_same_bits_beside_others(part):
    fused, hidden = step_map(part, compiled=True), torch.randn(13, next(part.parameters()).shape[1])
    with torch.inference_mode():
        assert isinstance(fused, FusedMap) and step_map(part) is part
        together = fused(hidden)
        torch.testing.assert_close(together, part(hidden), **CLOSE)
        assert all(torch.equal(together[row], fused(hidden[row : row + 1])[0]) for row in range(13))
        assert torch.equal(fused(torch.stack([hidden, hidden], 1)[:, 0]), together), "rows that lie apart"


def test_maps_that_step_cpp_does_not_know_are_torchs():
    for part in (torch.nn.Linear(4, 4), Projection(4, 4).double()):
        assert step_map(part, compiled=True) is part
    weight, hidden = torch.randn(5, 4), torch.randn(3, 4)
    torch.testing.assert_close(weight_map(weight, compiled=True)(hidden), weight_map(weight)(hidden), **CLOSE)
    assert not isinstance(weight_map(weight.double(), compiled=True), FusedMap)


# -- threads ----------------------------------------------------------------------------------------------------------


def in_parts(monkeypatch, parts):
    monkeypatch.setattr(native, "parts_of", lambda rows: min(rows, parts))


@pytest.mark.parametrize("variant", STUDENTS)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_any_number_of_threads_gives_the_bits_of_one(variant, parts, monkeypatch):
    student, prompts = student_of(variant), [b"The cat"[: n % 7] for n in range(19)]
    torch.manual_seed(0)
    steps = [(torch.randint(0, 250, (19,)), torch.rand(19) < 0.4) for _ in range(20)]
    one, many = (ByteStream(student, prompts, new_bytes=20, engine=engine_for(student, True)) for _ in range(2))
    for stream, threads in ((one, 1), (many, parts)):
        in_parts(monkeypatch, threads)
        for byte_B, ends_B in steps:
            if stream.look_ahead is None:
                stream.step(byte_B, ends_B)
            else:
                stream.step(byte_B, guess_B=byte_B.flip(0))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, many.tensors()[name]), name


def test_a_single_row_is_one_threads_and_more_are_shared_by_those_that_torch_and_the_process_may_have(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(native.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        assert [native.parts_of(rows) for rows in (1, 2, 3, 16)] == [1, 2, 3, 3]
        monkeypatch.setattr(native.os, "sched_getaffinity", lambda _: {5}, raising=False)
        assert native.parts_of(16) == 1
    finally:
        torch.set_num_threads(before)


def test_parts_that_take_long_are_computed_at_once_and_all_awaited(monkeypatch):
    """Parts of milliseconds: other threads have come before the first one is done with its own."""
    stack = Stack(StackShape(192, 2, 384, 64, 4, 2, 64, 16))
    for weight in stack.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    with torch.inference_mode():
        found, wide, hidden = [], FusedMap(torch.randn(4096, 192)), torch.randn(60, 192)
        for parts in (1, 3):
            in_parts(monkeypatch, parts)
            step, states = FusedStack(stack), stack.empty_state(60)
            found.append([(step.step(hidden, states), wide(hidden)) for _ in range(25)])
            found[-1].append(tuple(state.ssm_BNI for state in states))
    for one, three in zip(*found, strict=True):
        assert all(map(torch.equal, one, three))


@pytest.mark.skipif(not THREADS.exists(), reason="counts threads in /proc, which is Linux's: whether they sleep "
                    "is not checked here")
def test_threads_sleep_when_there_is_nothing_to_do_and_wake_up(monkeypatch):
    in_parts(monkeypatch, 3)
    fused, hidden = FusedMap(torch.randn(64, 64)), torch.randn(16, 64)
    expected = fused(hidden)
    assert len(list(THREADS.iterdir())) >= 3
    for _ in range(3):
        before = others_seconds()
        time.sleep(0.3)
        assert others_seconds() - before < 0.1, "one that did not sleep would have worked all the time"
        worked, until = others_seconds(), time.monotonic() + 20
        while others_seconds() - worked < 2e-3 and time.monotonic() < until:
            assert torch.equal(fused(hidden), expected)
        assert time.monotonic() < until, "they wake up"


def others_seconds():
    """CPU time of all threads but this one."""
    return time.process_time() - time.thread_time()


FORKS = """
import os, torch
from dbyte.native import library as native
from dbyte.native.linear import FusedMap
native.parts_of = lambda rows: 3
fused, hidden = FusedMap(torch.randn(64, 64)), torch.randn(16, 64)
expected = fused(hidden)
child = os.fork()
same = all(torch.equal(fused(hidden), expected) for _ in range(200))
if not child:
    os._exit(0 if same and len(os.listdir("/proc/self/task")) == 3 else 1)
assert same and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not THREADS.exists(), reason="counts threads in /proc, which is Linux's: whether a forked process "
                    "has threads of its own is not checked here")
def test_a_forked_process_has_threads_of_its_own_and_both_end_in_order():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(native.__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, timeout=120, env=environment)
    assert ended.returncode == 0 and not ended.stderr, ended.stderr.decode()


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


def test_what_is_no_number_stays_none_and_in_its_row():
    """The compiler may take numbers for finite, and a model that is broken is seen to be all the same."""
    student = student_of("paper")
    with torch.inference_mode():
        hidden = torch.randn(3, student.config.byte_width)
        hidden[1] = float("nan")
        for found in (FusedStack(student.encoder).step(hidden, student.encoder.empty_state(3)),
                      step_map(student.encoder_projection, compiled=True)(hidden),
                      step_map(student.encoder.blocks[0].ffn, compiled=True)(hidden)):
            assert found.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("parts", [1, 3])
def test_by_its_notes_a_stack_goes_on_and_tries_as_if_it_read_again(parts, monkeypatch):
    """Along rows and along trees whose beginnings were read before, against steps that know of no notes."""
    in_parts(monkeypatch, parts)
    torch.manual_seed(0)
    stack, texts = student_of("paper").encoder, [b"mnopqrs", b"mnopqr", b"abcxyz", b"abcde", b"abq"]
    tree, hidden_KD = Tree.of(texts), torch.randn(256, stack.norm.weight.numel())
    fused, behind, start = FusedStack(stack), {}, 2
    with torch.inference_mode():
        before_N, noted_Q = np.unique(tree.node_NL[:, start - 1]), np.flatnonzero(tree.depth_T >= start)
        read_TD, kept_CX, noted_QY = fused.read_keeping(hidden_KD[tree.symbol_T], tree, before_N, node_Q=noted_Q)
        for text, nodes in zip(texts, tree.node_NL.tolist(), strict=True):
            states = stack.empty_state(1)
            for byte, node in zip(text, nodes, strict=False):
                assert torch.equal(fused.step(hidden_KD[byte][None], states)[0], read_TD[node])
                behind[node] = [fused.step(hidden_KD[guess][None], states, commit=False)[0] for guess in b"az"]
        note_T = np.full(len(tree), -1)
        note_T[noted_Q] = np.arange(len(noted_Q))
        # a row of each text: every other one is tried behind
        states_BX = kept_CX[np.searchsorted(before_N, tree.node_NL[:, start - 1])]
        for place in range(start, tree.node_NL.shape[1]):
            going = int((tree.node_NL[:, place] >= 0).sum())
            node_B, row_S = tree.node_NL[:going, place], np.arange(place % 2, going, 2)
            tried_SD = fused.step_noted(note_T[node_B], row_S, hidden_KD[b"z"[0]].expand(len(row_S), -1),
                                        states_BX=states_BX[:going], noted_QY=noted_QY)
            assert [torch.equal(tried_D, behind[node][1]) for tried_D, node in
                    zip(tried_SD, node_B[row_S].tolist(), strict=True)] == [True] * len(row_S)
        some_T, node_T = tree.above(noted_Q, np.isin(np.arange(len(tree)), before_N))
        parent_S, origin_T = np.arange(len(some_T)).repeat(2), np.full(len(some_T), -1)
        roots_T = some_T.parent_T < 0
        origin_T[roots_T] = np.searchsorted(before_N, tree.parent_T[node_T[roots_T]])
        tried_SD = fused.read_tries(some_T, note_T[node_T], parent_S, hidden_KD[list(b"az")].repeat(len(some_T), 1),
                                    kept_CX=kept_CX, origin_T=origin_T, noted_QY=noted_QY)
    expected_SD = torch.stack([tried_D for node in node_T.tolist() for tried_D in behind[node]])
    assert len(some_T) == len(noted_Q) > 9 and torch.equal(tried_SD, expected_SD)


def test_a_saved_stream_goes_on_compiled(tmp_path):
    student = student_of("paper")
    options = dict(sampling=Sampling(0.8, seed=4), limit=30, valid_utf8=False)
    whole = Writer(ByteStream(student, PROMPTS, new_bytes=30), PROMPTS, **options).run().written
    writer = Writer(ByteStream(student, PROMPTS, new_bytes=30, engine=engine_for(student, True)), PROMPTS, **options)
    for _ in range(7):
        writer.advance()
    writer.save(tmp_path / "stream")
    for compiled in (True, False):
        assert Writer.load(student, tmp_path / "stream", engine=engine_for(student, compiled)).run().written == whole


# -- what is kept and what is refused ---------------------------------------------------------------------------------


def test_packed_weights_are_used_again_until_the_weights_change():
    student = student_of("paper")
    first, again = (ByteStream(student, PROMPTS[:1], new_bytes=8, engine=engine_for(student, True)) for _ in range(2))
    assert again.encoder is first.encoder and again.core_cache.core_step.packed is first.core_cache.core_step.packed
    with torch.no_grad():
        student.encoder.norm.weight.mul_(2)
        student.core.norm.weight.mul_(2)
    changed = ByteStream(student, PROMPTS[:1], new_bytes=8, engine=engine_for(student, True))
    assert changed.encoder is not first.encoder and changed.decoder is first.decoder
    assert changed.core_cache.core_step.packed is not first.core_cache.core_step.packed


def test_cores_that_it_does_not_know_step_plainly():
    student = student_of("paper").double()
    assert isinstance(engine_for(student, True).core_cache(rows=1, slots=4).core_step, CoreStep)
    student = student_of("paper")
    student.core.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(32))
    assert isinstance(engine_for(student, True).core_cache(rows=1, slots=4).core_step, CoreStep)


def test_without_a_compiler_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="install g\\+\\+, or leave compiled out"):
        generate(student_of("paper"), ["a"], max_new_bytes=4, compiled=True)
    assert generate(student_of("paper"), ["a"], max_new_bytes=4) is not None


@pytest.mark.parametrize("parts", [1, 3])
def test_threads_of_python_do_not_write_on_each_other(parts, monkeypatch):
    in_parts(monkeypatch, parts)  # one of them has the crew, the others do without
    torch.manual_seed(0)
    part = SwiGLU(48, 800)  # long enough a call for several of them at once
    fused, inputs = step_map(part, compiled=True), [torch.randn(rows, 48) for rows in range(1, 60)]
    with torch.no_grad():
        right = [fused(each) for each in inputs]
        with ThreadPoolExecutor(4) as threads:
            for order in (inputs, inputs[::-1]) * 5:
                found = list(threads.map(fused, order))
                assert all(torch.equal(one, right[len(one) - 1]) for one in found)


def test_prompts_that_are_all_empty_are_read():
    stack = Stack(StackShape(32, 2, 48, 16, 4, 2, 16, 32)).eval()
    hidden_BLD, nothing_B = torch.zeros(3, 1, 32), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        read, states = prefill(stack, hidden_BLD, nothing_B, compiled=True)
        plain, same = prefill(stack, hidden_BLD, nothing_B)
    assert read.shape == plain.shape
    for one, other in zip(states, same, strict=True):
        assert all(torch.equal(vars(one)[name], vars(other)[name]) for name in vars(one))
