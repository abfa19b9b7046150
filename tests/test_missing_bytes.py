"""A teacher whose tokenizer cannot spell a byte: a text with it is refused by name, and left out of training."""

import json
import re
from collections import Counter
from functools import cache

import pytest
from conftest import Ask, make_student, make_teacher, make_tokenizer
from test_curriculum import TOY
from test_stream import expected_pieces, lane_of, whole_pass
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import dbyte
from dbyte import presets
from dbyte.__main__ import main
from dbyte.distill import data
from dbyte.evaluate.bits import heldout_pieces, text_of
from dbyte.evaluate.harness import teacher_lm
from dbyte.evaluate.lm import READINGS, load_lm
from dbyte.model.teacher import load_teacher
from dbyte.text.corpus import load_corpus
from dbyte.text.packing import Rows
from dbyte.text.spans import BOS, TokenBytes

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer has no token for")
MISSING = "\x04"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """As the others have, but for the token of one byte, which stands for something else."""
    whole = make_tokenizer()
    told = json.loads(whole.backend_tokenizer.to_str())
    told["model"]["vocab"]["ĠnoĠword"] = told["model"]["vocab"].pop("Ą")  # 0x04, as byte-level BPE writes it
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(told)), bos_token=whole.bos_token,
                                   eos_token=whole.eos_token)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    make_teacher().save_pretrained(root / "teacher")
    for stage in (1, 2):
        student = make_student(make_teacher(), tokenizer())
        student.config.stage = stage
        student.save_pretrained(root / f"stage{stage}")
    for folder in root.iterdir():
        tokenizer().save_pretrained(folder)
    return root


@pytest.mark.parametrize("reading", [*READINGS, "token"])
def test_scoring_and_writing_refuse_a_text_with_the_byte_and_say_where(reading, folders):
    if reading == "token":
        lm = teacher_lm(*load_teacher(folders / "teacher"))
    else:
        lm = load_lm(folders / f"stage{READINGS[reading][0]}", boundaries=READINGS[reading][1])
    options = {"until": [], "max_gen_toks": 1}
    assert lm.loglikelihood([Ask("The cat", " sat")])[0][0] < 0 and lm.generate_until([Ask("The cat", options)])
    for ask in (lambda: lm.loglikelihood([Ask("The cat", " sat"), Ask(f"The cat{MISSING}", " sat")]),
                lambda: lm.loglikelihood([Ask("The cat", "The cat" * (reading == "token") + MISSING)]),
                lambda: lm.loglikelihood_rolling([Ask(f"The cat{MISSING} sat")]),
                lambda: lm.generate_until([Ask(f"The cat{MISSING}", options)])):
        with pytest.raises(ValueError, match=r"the byte 0x04 at byte 7, which .* has no token for: remove it from "
                                             r"b'The cat\\x04"):
            ask()


def test_the_commands_name_the_byte_and_write_nothing(folders, tmp_path, capsys):
    (tmp_path / "piqa").mkdir()
    items = [{"goal": "Open", "sol1": "Pull.", "sol2": "Push."}, {"goal": f"Op{MISSING}en", "sol1": "A.", "sol2": "B."}]
    (tmp_path / "piqa" / "dev.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "piqa" / "dev-labels.lst").write_text("0\n1\n")
    asked = ["--tasks", "paper/PIQA", "--data", str(tmp_path), "--out", str(tmp_path / "found.json")]
    for model in (["--model", str(folders / "stage2")], ["--teacher", str(folders / "teacher")]):
        assert main(["evaluate", *model, *asked]) == 2
        assert "error: the text holds the byte 0x04 at byte 12, which tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()
    assert main(["evaluate", *model, *asked, "--limit", "1"]) == 0, "the first item has no such byte"
    for stage in ("stage1", "stage2"):
        capsys.readouterr()
        assert main(["generate", str(folders / stage), "fine", f"The cat{MISSING}", "--max-new-bytes", "2"]) == 2
        said = capsys.readouterr()
        assert said.err.endswith("error: a prompt holds the byte 0x04 at byte 7, which the student's tokens cannot "
                                 "spell: remove it from the prompt\n") and said.out == ""
        with pytest.raises(ValueError, match="a prompt holds the byte 0x04 at byte 3"):
            dbyte.generate(dbyte.ByteStudent.from_pretrained(folders / stage), ["fine", f"The{MISSING}"])


@pytest.fixture
def own(tmp_path):
    """A corpus in which every fifth document has the byte."""
    lines = [f"Document {number} is about the cat in the house of Mira." + MISSING * (number % 5 == 0)
             for number in range(300)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return f"file:{tmp_path / 'own.jsonl'}"


def counted(said):
    """(left out, of how many documents), summed over the lines that say so."""
    told = re.findall(r"^(\d+) of (\d+) documents hold a byte that .* has no token for \(0x04\); they are left out$",
                      said, re.MULTILINE)
    return tuple(sum(map(int, column)) for column in zip(*told, strict=True))


def test_documents_with_the_byte_are_left_out_of_training_and_counted(folders, own, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "RUNS", tmp_path)
    monkeypatch.setitem(presets.SCALES, "toy", TOY)
    assert main(["train", "--scale", "toy", "--teacher", str(folders / "teacher"), "--corpus", f"{own}=1e4",
                 "--dry-run"]) == 0
    texts = load_corpus(own, split="train", seed=0, max_bytes=10_000).documents
    spelled = [text for text in texts if MISSING not in text]
    assert counted(capsys.readouterr().out) == (len(texts) - len(spelled), len(texts)) and len(spelled) < len(texts)
    (path,) = (tmp_path / "data").glob("rows-*.safetensors")
    rows = Rows.load(path)
    assert ord(MISSING) not in rows.byte_ids and (rows.byte_ids == BOS).sum() == len(spelled)
    pieces = heldout_pieces(texts, TokenBytes.from_tokenizer(tokenizer()), row_bytes=256)
    assert [text_of(piece).decode() for piece in pieces] == spelled
    assert counted(capsys.readouterr().out) == (len(texts) - len(spelled), len(texts))


def test_documents_with_the_byte_are_left_out_of_a_stream_and_counted(own, capsys):
    table = TokenBytes.from_tokenizer(tokenizer())
    texts = load_corpus(own, split="train", seed=0).documents
    spelled = [text for text in texts if MISSING not in text]
    assert Counter(whole_pass(lane_of(own, table, 0, lanes=1))) == expected_pieces(spelled, table)
    left_out, read = counted(capsys.readouterr().out)  # the pass that began then, too
    assert left_out >= len(texts) - len(spelled) > 0 and read >= len(texts)
