"""`python -m dbyte generate`: one-shot, from files and standard input, interactive, interrupted; bad input is told."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import hearing, make_student, make_teacher

import dbyte
from dbyte.__main__ import main
from dbyte.decode.generate import generate
from dbyte.distill.runs import Run
from dbyte.model.student import ByteStudent
from dbyte.native.library import find_compiler

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DBYTE_ROOT": str(ROOT)}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    teacher = make_teacher()
    teacher.config.max_position_embeddings = 4096
    make_student(teacher, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def endless(tokenizer, tmp_path_factory):
    """Writes the letters a and b and never ends: one of them is always likelier than all else."""
    folder = tmp_path_factory.mktemp("endless")
    teacher = make_teacher()
    teacher.config.max_position_embeddings = 100_000
    student = make_student(teacher, tokenizer)
    with torch.no_grad():
        a, student.byte_head.weight[:] = student.byte_head.weight[0].clone(), 0.0
        student.byte_head.weight[ord("a")], student.byte_head.weight[ord("b")] = a, -a
    student.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return ByteStudent.from_pretrained(folder)


def test_options_reach_the_draw(folder, loaded, capfdbinary, tmp_path):
    path = tmp_path / "prompt"
    path.write_bytes("The cat 😀".encode()[:-2])
    options = dict(max_new_bytes=25, temperature=0.9, top_k=20, top_p=0.8, seed=7, stop=["e"])
    assert main(["generate", str(folder), "--file", str(path), "--max-new-bytes", "25", "--temperature", "0.9",
                 "--top-k", "20", "--top-p", "0.8", "--seed", "7", "--stage", "2", "--stop", "e"]) == 0
    (expected,) = generate(loaded, [path.read_bytes()], **options)
    assert capfdbinary.readouterr().out.decode() == expected + "\n"


def test_prompts_of_a_file_are_written_together_in_their_order(folder, loaded, capfdbinary, tmp_path):
    prompts = ["The cat", "", "naïve 😀", "The cat", "Where does Mira live?"]
    (tmp_path / "prompts").write_bytes("\n".join(prompts[1:]).encode())
    options = dict(max_new_bytes=20, temperature=0.9, seed=3, stop=["e"])
    arguments = ["--max-new-bytes", "20", "--temperature", "0.9", "--seed", "3", "--stop", "e"]
    expected = generate(loaded, prompts, **options)  # equal prompts of two batches are drawn apart too
    for rows in (3, 16):
        assert main(["generate", str(folder), prompts[0], "--lines", str(tmp_path / "prompts"), "--rows", str(rows),
                     *arguments]) == 0
        assert capfdbinary.readouterr().out.decode() == "".join(text + "\n" for text in expected)


@pytest.mark.skipif(find_compiler() is None,
                    reason="compiled steps need a C++ compiler: --compiled is not compared with the plain steps; "
                           "install g++ to check it")
def test_compiled_steps_write_the_same(folder, loaded, capfdbinary):
    assert main(["generate", str(folder), "The cat", "--compiled", "--max-new-bytes", "12"]) == 0
    assert capfdbinary.readouterr().out.decode() == generate(loaded, ["The cat"], max_new_bytes=12)[0] + "\n"


def test_raw_bytes_and_a_prompt_from_standard_input(folder, loaded, monkeypatch, capfdbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The cat\n")))
    assert main(["generate", str(folder), "-", "--raw", "--max-new-bytes", "40"]) == 0
    assert capfdbinary.readouterr().out == generate(loaded, [b"The cat\n"], max_new_bytes=40, as_bytes=True)[0]


@pytest.mark.parametrize("arguments, told", [
    (["--max-new-bytes", "0"], "max_new_bytes must be at least 1"), (["--top-p", "1.5"], "top_p must lie in (0, 1]"),
    (["--stage", "1"], "of Stage 2, asked for Stage 1"), (["--stop", ""], "stop must"),
    (["--rows", "0"], "--rows must"), (["--file", "no-such-file"], "no-such-file"),
    (["--device", "cuda:99"], "device 'cuda:99' was asked for, which is not here"),
])
def test_wrong_options_are_told(folder, arguments, told, capsys):
    assert main(["generate", str(folder), "a", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_an_unknown_folder_and_bytes_that_are_no_text_are_told(folder, tmp_path, capsys):
    assert main(["generate", str(tmp_path / "none"), "a"]) == 2
    assert "holds no student" in capsys.readouterr().err
    for content, told in ((b"a\xfe", "0xFE"), (b"a\xe9tude", "offset 1")):
        (tmp_path / "bad").write_bytes(content)
        assert main(["generate", str(folder), "--file", str(tmp_path / "bad")]) == 2
        assert told in capsys.readouterr().err


def test_a_stage_1_student_writes_no_bytes(tokenizer, tmp_path, capsys):
    student = make_student(make_teacher(), tokenizer, stage=1)
    student.save_pretrained(tmp_path)
    assert main(["generate", str(tmp_path), "a", "--stage", "2"]) == 2
    assert "holds a student of Stage 1, asked for Stage 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="this student is of Stage 1"):
        generate(student, ["a"], stage=2)
    assert main(["generate", str(tmp_path), "a", "--stage", "1", "--max-new-bytes", "9"]) == 0
    assert capsys.readouterr().out == generate(student, ["a"], max_new_bytes=9)[0] + "\n"


def test_the_folder_of_a_run_stands_for_its_model(loaded, tmp_path, capsys):
    run = Run({}, root=tmp_path)
    with run.locked():
        run.metrics_path.touch()
        assert main(["generate", str(run.folder), "a"]) == 2
        assert "a run that is not finished" in capsys.readouterr().err
        run.complete(loaded.save_pretrained, facts={})
    assert main(["generate", str(run.folder), "The cat", "--max-new-bytes", "9"]) == 0
    assert capsys.readouterr().out == generate(loaded, ["The cat"], max_new_bytes=9)[0] + "\n"


def test_an_empty_source_of_prompts_is_told(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").touch()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    for source, told in ((["--lines", tmp_path / "empty"], "empty is empty"), ([], "error: standard input is empty"),
                         (["--file", tmp_path / "empty"], "empty is empty")):
        assert main(["generate", str(folder), *map(str, source)]) == 2
        assert told in capsys.readouterr().err


def test_prompts_and_stops_that_are_no_text_are_told(loaded):
    for prompt, told in ((5, r"found int \(5\)"), (None, "found NoneType"), ("a\ud800", r"surrogate \(U\+D800\) .* 1")):
        with pytest.raises(ValueError, match=told):
            dbyte.generate(loaded, ["fine", prompt])
    with pytest.raises(ValueError, match="stop must be a list of strings"):
        dbyte.generate(loaded, ["a"], stop=[5])


def test_a_byte_that_no_token_has_is_refused_by_name(tokenizer):
    student = make_student(make_teacher(), tokenizer)
    prompt = b"The cat\x04"
    dbyte.generate(student, [prompt], max_new_bytes=1)
    (place,) = [at for at, text in enumerate(student.token_texts()) if text == b"\x04"]
    student.token_table[student.token_offset[place]] = ord("a")
    for given in (prompt, prompt.decode()):
        with pytest.raises(ValueError, match="the byte 0x04 at byte 7"):
            dbyte.generate(student, ["fine", given])
    assert dbyte.generate(student, ["The cat"], max_new_bytes=1)


@pytest.mark.parametrize("arguments", [["generate", "{}", "x", "--max-new-bytes", "90000"], ["runs"], ["--help"]])
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(arguments, endless, tmp_path):
    # Output of a text is written at once; "no runs" and a help wait in a buffer until the end.
    running = subprocess.Popen([sys.executable, "-m", "dbyte", *(each.format(endless) for each in arguments)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=ENVIRONMENT | {"PYTHONUNBUFFERED": "", "DBYTE_ROOT": str(tmp_path)})
    running.stdout.close()
    told = running.stderr.read()
    assert running.wait(timeout=60) == 141 and b"roken" not in told and b"Error" not in told


def until(handle, wanted, seconds=60.0):
    """Read a terminal until it shows something."""
    found, end = b"", time.monotonic() + seconds
    while wanted(found) is False and time.monotonic() < end:
        if select.select([handle], [], [], 0.2)[0]:
            try:
                found += os.read(handle, 4096)
            except OSError:  # the other side has closed
                break
    return found


def test_an_interrupt_leaves_whole_characters_and_a_line_and_exits_130(endless):
    running = subprocess.Popen(
        [sys.executable, "-m", "dbyte", "generate", str(endless), "x", "--max-new-bytes", "90000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, preexec_fn=hearing)
    first = running.stdout.read(20)
    running.send_signal(signal.SIGINT)
    rest, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors.decode()
    text = (first + rest).decode()  # raises if a character is cut
    assert text.endswith("\n") and set(text[:-1]) <= {"a", "b"} and b"Traceback" not in errors
    assert b"Loading weights" not in errors, "a bar in a log"


def test_a_conversation_on_a_terminal_continues_after_an_interrupt(endless):
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "dbyte", "generate", str(endless), "--max-new-bytes", "90000"], stdin=theirs,
        stdout=theirs, stderr=theirs, env=ENVIRONMENT, preexec_fn=hearing)
    os.close(theirs)
    assert until(ours, lambda found: b"> " in found).endswith(b"> ")
    for prompt in (b"one\n", b"two\n"):  # a text that could end would have brought the next "> " before the interrupt
        os.write(ours, prompt)
        assert b"> " not in until(ours, lambda found: len(found) > 40)
        running.send_signal(signal.SIGINT)
        assert until(ours, lambda found: found.endswith(b"> ")).endswith(b"\r\n> ")
    running.send_signal(signal.SIGINT)
    os.write(ours, b"\n")  # one that came before a line was awaited is heard with the line
    until(ours, lambda found: False, seconds=1.0)
    assert running.wait(timeout=30) == 130
    os.close(ours)
