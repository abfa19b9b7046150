"""Folders that mean harm: nothing in them is run, no memory is taken for their claims, the error says what it was."""

import json
import os
import pickle
import re
import struct

import pytest
from conftest import make_student, make_teacher

from dbyte.__main__ import main
from dbyte.model.student import ByteStudent
from dbyte.model.teacher import load_teacher

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def header(path, content, length=None):
    data = json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", length or len(data)) + data)


def a_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(folder.parent / "canary")))


def code(folder):
    (folder / "evil.py").write_text(f"import os\nos.mknod({str(folder.parent / 'canary')!r})\n")
    change(folder / CONFIG, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model",
                                                         "AutoModelForCausalLM": "evil.Model"})


def link(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/proc/self/mem")


def huge_shape(folder):
    header(folder / WEIGHTS, {"byte_embedding.weight": {"dtype": "F32", "shape": [1 << 40, 1 << 20],
                                                        "data_offsets": [0, 1 << 62]}})


HARM = {
    "a pickle": (a_pickle, "has no weights"),
    "code": (code, "holds a evil model|contains custom code"),
    "a link out": (link, "damaged|cannot be read|No such device"),
    "a long header": (lambda folder: header(folder / WEIGHTS, {}, 1 << 62), "are damaged"),
    "a huge shape": (huge_shape, "are damaged"),
    "half a file": (lambda folder: os.truncate(folder / WEIGHTS, 4000), "are damaged"),
    "nested JSON": (lambda folder: (folder / CONFIG).write_text("[" * 100_000), "no JSON object"),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), "no JSON object"),
}
SIZES = {
    "wide": (dict(byte_width=1 << 26), "other sizes than its config.json says .*byte_embedding"),
    "deep": (dict(encoder_layers=10**9), "it names 1000000003 layers"),
}


@pytest.fixture
def folder(tokenizer, tmp_path):
    make_student(make_teacher(), tokenizer).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(folder, says, capsys):
    assert main(["generate", str(folder), "hello", "--max-new-bytes", "2"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dbyte: error: ") or "\ndbyte: error: " in told

    assert re.search(says, told), told
    assert not (folder.parent / "canary").exists(), "it was run"


@pytest.mark.parametrize("harm", HARM)
def test_a_student_that_means_harm_is_refused(harm, folder, capsys):
    spoil, says = HARM[harm]
    spoil(folder)
    refused(folder, says, capsys)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(size, folder, capsys):
    values, says = SIZES[size]
    change(folder / CONFIG, **values)
    refused(folder, says, capsys)


@pytest.mark.parametrize("harm", ["code", "a pickle", "half a file", "nested JSON"])
def test_a_teacher_that_means_harm_is_refused(harm, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail(f"it asked: {question}"))
    folder = tmp_path / "teacher"
    make_teacher().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    HARM[harm][0](folder)
    with pytest.raises((ValueError, FileNotFoundError), match="custom code|has no weights|are damaged|no JSON object"):
        load_teacher(folder)
    assert not (tmp_path / "canary").exists()


def test_what_is_whole_is_still_read_with_and_without_a_split_router(folder, tokenizer, tmp_path):
    assert ByteStudent.from_pretrained(folder).config.byte_width == 16
    split = make_student(make_teacher(), tokenizer, router="split", router_width=16, router_layers=1)
    split.save_pretrained(tmp_path / "split", max_shard_size=20_000)
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert ByteStudent.from_pretrained(tmp_path / "split").config.router == "split"
