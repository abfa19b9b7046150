"""Notebook 12: the exact reading is the measure of the others, arms have rates of their own, numbers a status."""

from dataclasses import replace

import pytest
from conftest import make_teacher
from tiny_tokenizers import KINDS

from dbyte import presets
from dbyte.presets import Ablation
from dbyte_paper import byte_interface


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
    assert many < few and found["along tokens"]["value"] > 1e-4
    figure = byte_interface.quality_figure(byte_interface.pd.DataFrame(rows))
    assert len(figure.axes[0].texts) == len(rows) - 1, "the exact one has no place on a logarithmic axis"


def test_each_arm_is_trained_by_every_seed_at_the_best_rate_of_the_same_sweep(folder, monkeypatch):
    monkeypatch.setattr(byte_interface, "CHOOSING_BYTES", 400)
    scale = replace(presets.scale("smoke"), teacher=str(folder), corpora=(("world", 4000),), row_bytes=128,
                    ablation=Ablation(step_bytes=512, batch_rows=2, items=2, seeds=2))
    arms = {name: byte_interface.ARMS[name] for name in ("SFT", "BLD, targets along tokens")}
    trained, sweep = byte_interface.train_arms(scale, arms, rates=[1e-6, 1e-2], seed=0, teacher=str(folder),
                                               tokenizer="bytes", rank=2)
    assert list(trained) == list(arms) and {len(runs) for runs in trained.values()} == {2}
    assert len(sweep) == 4 and len(byte_interface.sweep_rows("to bytes", sweep)) == 4
    for name, runs in trained.items():
        rates = sweep[sweep.arm == name].set_index("rate").value
        best = rates.idxmin()
        assert [run[0].config["step"]["groups"][0]["rate"] for run in runs] == [best, best] == [1e-2, 1e-2]
        assert runs[0][0].hash != runs[1][0].hash and all(run[0].is_complete() for run in runs)


def test_every_published_number_has_a_status():
    table = byte_interface.published()
    assert set(table.status) == {"read", "quoted"} and (table[table.paper == "BLD"].status == "quoted").all()
    assert table.printed.between(0, 100).all()
    assert not table.duplicated(["paper", "setting", "method", "column"]).any()


def test_a_pretrained_teacher_needs_a_tokenizer_by_name(folder):
    with pytest.raises(ValueError, match="name another tokenizer"):
        byte_interface.other_tokenizer(replace(presets.scale("smoke"), teacher=str(folder)), seed=0)
