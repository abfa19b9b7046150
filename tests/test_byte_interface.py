"""Notebook 12: the exact reading is the measure of the others, arms have rates of their own, numbers a status."""

import base64
from dataclasses import replace

import pytest
from conftest import make_teacher
from tiny_tokenizers import KINDS

from dbyte import presets
from dbyte.model.teacher import load_model, load_tokenizer
from dbyte.presets import Ablation
from dbyte.text.spans import TokenBytes
from dbyte.transfer.plan import Transfer, plan, transfer
from dbyte_paper import byte_interface
from dbyte_paper.evidence import RATES, SWEEP


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("teacher")
    make_teacher(vocabulary=500).save_pretrained(place)
    KINDS["qwen"]().save_pretrained(place)
    return place


def test_readings_are_measured_against_the_exact_one(folder):
    rows = byte_interface.quality_rows(folder, ["All human beings are", "naïve café"], limit=12)
    found = {row["reading"]: row for row in rows}
    assert found["coverings"]["value"] == found["coverings"]["bias"] == found["coverings"]["healed"] == 0
    assert all(0 <= row["value"] <= 0.7 and row["n"] == 24 and row["milliseconds"] > 0 for row in rows)
    few, many = (found[f"beam, K = {K}, epsilon = {epsilon}"]["value"] for K, epsilon in ((1, 0.01), (10, "1e-09")))
    # Both beams count encodings that the tokenizer never writes, which no width mends.
    assert many < 1.01 * few and found["along tokens"]["value"] > 1e-4
    figure = byte_interface.quality_figure(byte_interface.pd.DataFrame(rows))
    assert len(figure.axes[0].texts) == len(rows) - 1, "the exact one has no place on a logarithmic axis"


def test_each_arm_is_trained_by_every_seed_at_the_best_rate_of_the_same_sweep(folder, monkeypatch):
    tried = []

    def best(scale, run_at, reading, *, seed):
        tried.append([run_at(factor).parent.name for factor in RATES])
        return RATES[len(tried)]

    monkeypatch.setattr(byte_interface, "best_factor", best)
    scale = replace(presets.scale("smoke"), teacher=str(folder), corpora=(("world", 4000),), row_bytes=128,
                    ablation=Ablation(step_bytes=512, batch_rows=2, items=2, seeds=2))
    arms = {name: byte_interface.ARMS[name] for name in ("SFT", "BLD, targets along tokens")}
    trained, got = byte_interface.train_arms(scale, arms, seed=0, pair="to bytes", teacher=str(folder),
                                             tokenizer="bytes", rank=2)
    assert list(trained) == [f"{name}, to bytes" for name in arms] and {len(runs) for runs in trained.values()} == {2}
    assert got == {name: {"train_bytes": 512, "rate": factor, "sweep": SWEEP}
                   for name, factor in zip(trained, RATES[1:], strict=True)}
    assert len({name for names in tried for name in names}) == 2 * len(RATES)
    for (name, runs), names in zip(trained.items(), tried, strict=True):
        rates = {run.config["step"]["groups"][0]["rate"] for run, in runs}
        assert rates == {got[name]["rate"] * byte_interface.RATE} and runs[0][0].hash != runs[1][0].hash
        assert runs[0][0].model_folder.parent.name in names and all(run.is_complete() for run, in runs)


def test_every_published_number_has_a_status():
    table = byte_interface.published()
    assert set(table.status) == {"read", "quoted"} and (table[table.paper == "BLD"].status == "quoted").all()
    assert table.printed.between(0, 100).all()
    assert not table.duplicated(["paper", "setting", "method", "column"]).any()


def write_ranks(file):
    """Write a file of ranks as Qwen's packages hold it, of the tiny tokenizer of its kind; return its tokens."""
    texts = [text for text in TokenBytes.from_tokenizer(KINDS["qwen"]()).token_bytes if text]
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{base64.b64encode(text).decode()} {rank}\n" for rank, text in enumerate(texts)))
    return texts


def test_a_pretrained_teacher_goes_to_the_qwen_tokenizer_that_is_named_or_it_says_what_it_leaves_out(
        folder, tmp_path, monkeypatch, capsys):
    scale = replace(presets.scale("smoke"), teacher=str(folder))
    for named in ("", str(tmp_path / "empty")):
        monkeypatch.setenv("DBYTE_TOKENIZERS", named)
        assert byte_interface.pairs(scale, None, seed=0) == {"to bytes": "bytes"}
        assert "Left out: from one BPE to another" in capsys.readouterr().out
    assert byte_interface.pairs(scale, "mine", seed=0) == {"to another BPE": "mine", "to bytes": "bytes"}
    resources = tmp_path / "qwen_tokenizer" / "resources"
    texts = write_ranks(resources / "qwen.tiktoken")
    monkeypatch.setenv("DBYTE_TOKENIZERS", str(tmp_path))
    assert byte_interface.pairs(scale, None, seed=0)["to another BPE"] == str(resources)
    assert not capsys.readouterr().out
    asked = Transfer(str(folder), tokenizer=str(resources), method="sft", rank=2, train_bytes=512, row_bytes=128,
                     batch_rows=2)
    run = transfer(plan(asked, ["All human beings are born free.", "naïve café 😀 中文"] * 9, seed=0))
    table = TokenBytes.from_tokenizer(load_tokenizer(run.model_folder))
    assert [text for text in table.token_bytes if text] == texts and load_model(run.model_folder)
    assert table.align("Cafe\u0301 12").token_ids.tolist() == table.align("Café 12").token_ids.tolist(), "NFC, as Qwen"
