"""Shared by the tests: quiet libraries, no network, small teachers, and packed rows of odd text."""

import gc
import os
import signal
from functools import cache

gc.disable()  # until all is imported: torch and transformers make a million objects, and none of them is garbage
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("PIP_NO_INDEX", "1")  # no test downloads a teacher

import pytest
import torch
import transformers
from transformers.utils import logging

from dbyte.distill.teacher import train_tokenizer
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.text.packing import document, pack
from dbyte.text.spans import TokenBytes

logging.disable_progress_bar()
gc.freeze()  # nor is any looked for among them afterwards, which takes seconds, at the end of each process too
gc.enable()

FAMILIES = {"llama": "Llama", "qwen3": "Qwen3", "olmo2": "Olmo2"}  # as transformers' classes begin
TEXTS = ["The cat sat on the mat, and the dog slept in the house.\n", "naïve café 😀 中文 テキスト", "1 + 2 = 3. " * 6,
         "x", "def f(a):\r\n\treturn a * 2\n", "Where does Mira live? Mira lives in Oslo. " * 3, "e\u0301\x00tail"]


@cache
def make_tokenizer():
    return train_tokenizer(TEXTS * 2 + ["the cat lives in the house of Mira and sat on a mat. "] * 4, vocabulary=300)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def token_bytes(tokenizer):
    return TokenBytes.from_tokenizer(tokenizer)


@pytest.fixture(scope="session")
def rows(token_bytes):
    """Packed rows, several documents a row, padding at the tail."""
    return pack([document(a, token_bytes) for a in token_bytes.align_batch(TEXTS)], row_bytes=160)


@pytest.fixture(scope="session")
def batch(rows):
    """All of these rows."""
    return rows.batch(range(len(rows)))


def make_teacher(family="llama", *, vocabulary=300, tied=False):
    """A random model of a family with large weights, so that what differs shows."""
    torch.manual_seed(0)
    config_class, model_class = (getattr(transformers, FAMILIES[family] + kind) for kind in ("Config", "ForCausalLM"))
    sizes = dict(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, intermediate_size=48, max_position_embeddings=256, tie_word_embeddings=tied,
                 initializer_range=0.2, pad_token_id=0, bos_token_id=0, eos_token_id=1)
    return model_class(config_class(**sizes)).eval()


@pytest.fixture(params=FAMILIES)
def any_teacher(request):
    return make_teacher(request.param)


@pytest.fixture
def teacher():
    return make_teacher()


COSTS = {}


@pytest.fixture
def counted_once(monkeypatch):
    """A step runs without numbers once for all plans and tests that differ in something else."""
    from dbyte.plan import counting  # not in the processes that tests start, which import this file too

    count = counting.costs_of

    def once(config, step, batch, **options):
        tensors = [(one.shape, one.numpy().tobytes()) for one in vars(batch).values()]
        key = repr((config.to_json_string(), step.describe(), options, tensors))
        if key not in COSTS:
            COSTS[key] = count(config, step, batch, **options)
        return COSTS[key]

    monkeypatch.setattr(counting, "costs_of", once)


def hearing() -> None:
    """In a process that a test starts: hear interrupts, which a job in a shell's background was told to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Ask:
    """A request of the harness: only its arguments are read."""

    def __init__(self, *args):
        self.args = args


SIZES = dict(byte_width=16, encoder_layers=2, decoder_layers=1, ffn_width=24, state_size=8, head_width=8, chunk_size=16)


VARIANTS = {
    "paper": {}, "authors": dict(ffn_width=0, router_ffn_width=12, smoothing=True, confidence=True),
    "attention": dict(encoder_mixer="attention"), "window": dict(encoder_mixer="attention", encoder_window=5),
    "convolution": dict(encoder_mixer="convolution", encoder_window=6),
    "split": dict(router="split", router_width=16, router_layers=1), "mbp": dict(decoding="mbp"),
    "suffix": dict(suffix=True), "router_suffixes": dict(router_suffixes=8), "prior": dict(decoding="prior"),
}


def make_student(teacher, tokenizer=None, **changes):
    """A small student whose new parts are far from zero, so that every path carries signal."""
    torch.manual_seed(1)
    reads_tokens = {"suffix", "router_suffixes"} & set(changes) or changes.get("decoding") == "prior"
    tokenizer = make_tokenizer() if reads_tokens else tokenizer
    student = ByteStudent.from_teacher(teacher, config=StudentConfig(**(SIZES | changes)), tokenizer=tokenizer).eval()
    with torch.no_grad():
        from_zero = [student.residual.weight, student.null_E]
        if changes.get("decoding") == "prior":
            from_zero.append(student.byte_head.weight)
        if changes.get("suffix"):
            from_zero += [student.encoder_projection.weight, student.encoder_projection.gate.weight]
        for weight in from_zero:
            weight.normal_()
        for weight in student.router.parameters() if student.config.router == "integrated" else ():
            weight.normal_()
        if changes.get("router_suffixes"):
            for weight in student.router.suffixes.parameters():
                weight.mul_(0.1)  # log-odds of a few, not of dozens
    return student


@pytest.fixture
def student(teacher, tokenizer):
    return make_student(teacher, tokenizer)


@pytest.fixture(params=VARIANTS)
def any_student(request, teacher, tokenizer):
    """Each kind of student: the paper's, the authors', and those of the ablations."""
    return make_student(teacher, tokenizer, **VARIANTS[request.param])
