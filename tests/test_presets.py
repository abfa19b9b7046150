"""The scales: known by name, complete, and at `paper` the published values, read from the published tables."""

from dataclasses import replace
from inspect import signature

import pytest
from transformers import AutoModelForCausalLM

from dbyte.distill.curriculum import curriculum
from dbyte.distill.steps import stage1, stage2
from dbyte.distill.teacher import teacher_config
from dbyte.model.student import StudentConfig
from dbyte.model.teacher import check_family
from dbyte.paths import ROOT
from dbyte.presets import (
    DEVICE,
    FAMILIES,
    PAPER_SIZES,
    SCALES,
    TEACHERS,
    WHOLE_WORLD,
    Scale,
    TeacherShape,
    scale,
    whole_world,
)
from dbyte.report.published import published
from dbyte.scale_file import STAGE1, STAGE2, STUDENT, read
from dbyte.tasks.minibench import EVERY, taught_by


def test_an_unknown_scale_names_the_choices():
    with pytest.raises(ValueError, match="smoke, small, gpu, hub, paper"):
        scale("medium")


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:3"])
def test_the_device_of_every_scale_can_be_named_from_outside(device, monkeypatch):
    monkeypatch.setenv(DEVICE, device)
    assert {scale(name).device for name in SCALES} == {device}
    monkeypatch.setenv(DEVICE, "")
    assert [scale(name) for name in SCALES] == list(SCALES.values())
    monkeypatch.setenv(DEVICE, "gpu")
    with pytest.raises(ValueError, match=r"\$DBYTE_DEVICE must be cpu, cuda or cuda:N, found 'gpu'"):
        scale("small")


def test_a_file_is_a_scale_of_its_name(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes((ROOT / "dbyte" / "scales" / "small.toml").read_bytes())
    found, lessons = read(file, Scale, TeacherShape)
    assert found == replace(SCALES["small"], name="mine") and lessons == WHOLE_WORLD["small"]


@pytest.mark.parametrize("old, new, message", [
    ("row_bytes =", "rowbytes =", r"mine.toml has an unknown key rowbytes: choose from .*row_bytes"),
    ("align_bytes =", "algn_bytes =", "stage1 has an unknown key algn_bytes: choose from align_bytes, distill_bytes"),
    ("byte_width =", "width =", "student has an unknown key width: choose from byte_width"),
    ("muon_rate = 0.01", "muon = 0.01", "whole_world: teacher has an unknown key muon: choose from .*muon_rate"),
    ("rate = 5e-3", "rate = 5", "teacher: rate must be float, found 5"),
    ("seeds = 3", "seeds = 3.0", "ablation: seeds must be int, found 3.0"),
    ("snapshots = 3", "snapshots = true", "stage1: snapshots must be int, found True"),
    ("boundary_loss = true", "boundary_loss = 1", "stage1: boundary_loss must be bool, found 1"),
    ('[["world", 8_000_000]', '[["world", 8e6]', "corpora must be int, found 8000000.0"),
    ('[["world", 8_000_000]', '[["world"]', r"corpora must be .*found \['world'\]"),
    ("[teachers.own]", "", "Teachers.* missing .*'own'"),
    ("row_bytes = 1024", "row_bytes = 0", "mine.toml: .*row_bytes"),
    ("kv_heads = 2", "kv_heads = 3", "mine.toml: teachers: other: .*kv_heads that divide"),
])
def test_a_file_with_a_wrong_key_type_or_value_is_refused_by_name(old, new, message, tmp_path):
    text = (ROOT / "dbyte" / "scales" / "small.toml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(file, Scale, TeacherShape)


def test_the_keys_of_a_file_are_the_arguments_of_what_they_go_to():
    for keys, function in ((STAGE1, stage1), (STAGE2, stage2)):
        parameters = {name: one.annotation for name, one in signature(function).parameters.items()}
        parameters.pop("decoding", None)  # given by the curriculum
        assert keys == parameters
    assert STUDENT.items() <= StudentConfig.__annotations__.items()
    assert SCALES["hub"].student == PAPER_SIZES


@pytest.mark.parametrize("name", SCALES)
def test_the_teachers_of_table_10_differ_in_size_or_in_family(name):
    own, larger, other = vars(scale(name).teachers).values()
    if isinstance(own, str):
        assert {own, larger, other} <= TEACHERS.keys(), "a hub name without its revision is another model tomorrow"
        return
    assert own == scale(name).teacher
    assert (larger.vocabulary, larger.tokenizer_corpora, larger.train_bytes, larger.family) == (
        own.vocabulary, own.tokenizer_corpora, own.train_bytes, own.family)
    assert larger.width > own.width and larger.layers > own.layers
    assert other.family != own.family and other.vocabulary != own.vocabulary
    config = teacher_config(other)
    assert config.model_type == other.family and config.num_key_value_heads < config.num_attention_heads


@pytest.mark.parametrize("name", SCALES)
def test_a_teacher_of_the_whole_world_learns_to_look_back_with_its_own_tokenizer(name):
    whole = whole_world(scale(name))
    if isinstance(scale(name).teacher, str):
        assert whole == scale(name)
        return
    assert list(taught_by(dict(whole.corpora))) == list(EVERY)
    if whole == scale(name):
        return
    before = [whole.continues.continues, whole.continues]
    for earlier, corpus in zip(before, ("echoes", "lookups"), strict=True):
        assert replace(earlier.teacher, train_bytes=0) == replace(whole.teacher, train_bytes=0), "one model goes on"
        assert set(earlier.teacher.tokenizer_corpora) <= dict(earlier.corpora).keys() & dict(whole.corpora).keys()
        assert dict(earlier.corpora)[corpus] >= earlier.teacher.train_bytes / 2
    assert before[0].continues is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_of_any_family_is_a_teacher_of_its_sizes(family):
    shape = replace(SCALES["small"].teacher, family=family, kv_heads=2, layers=1)
    model = AutoModelForCausalLM.from_config(teacher_config(shape))
    check_family(model)
    attention = model.model.layers[0].self_attn
    assert attention.k_proj.weight.shape == (shape.width // shape.heads * shape.kv_heads, shape.width)
    assert hasattr(attention, "q_norm") == (family != "llama")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("wrong", [dict(family="gpt2"), dict(kv_heads=3)])
def test_a_teacher_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="kv_heads that divide its heads"):
        replace(SCALES["small"].teacher, **wrong)


def table13() -> dict:
    table = published("table13_training")
    return {(str(row.stage), str(row.step), row.parameter): str(row.value) for row in table.itertuples()}


def test_paper_has_table_13():
    table, chosen = table13(), scale("paper")
    align, distill, boundary, head, full = curriculum(chosen)
    number = {"B": 10**9}
    for stage, steps in (("1", (align, distill, boundary)), ("2", (head, full))):
        text = table[stage, "all", "total training bytes"]
        assert sum(step.train_bytes for step in steps) == int(text[:-1]) * number[text[-1]]
        assert float(table[stage, "all", "weight decay"]) == steps[0].weight_decay
        assert float(table[stage, "all", "max grad norm"]) == steps[0].clip
        assert table[stage, "all", "lr schedule"] == "warmup + cosine decay"
        for place, step in enumerate(steps, start=1):
            assert table[stage, "all", "optimizer"] == f"AdamW ({step.betas[0]} {step.betas[1]})"
            assert not any(group.muon_rate for group in step.groups)
            assert float(table[stage, str(place), "warmup ratio"]) == step.warmup
    assert chosen.batch_rows == int(table["1", "all", "batch size (sequences)"])
    assert chosen.row_bytes == int(table["1", "all", "sequence length (bytes)"])
    rates = [[group.rate for group in step.groups] for step in (align, distill, boundary, head, full)]
    peak = {key[:2]: float(value) for key, value in table.items() if key[2] == "peak lr"}
    assert rates[0] == [peak["1", "1"]] and rates[1] == [peak["1", "2"]] * 2 and rates[2] == [peak["1", "3"]]
    assert rates[3] == [float(table["2", "1", "peak lr (decoder)"])]
    assert rates[4] == [float(table["2", "2", "peak lr (encoder + decoder)"]),
                        float(table["2", "2", "peak lr (core transformer)"])]


def test_paper_has_table_12():
    table = published("table12_architecture")
    for component, prefix in (("encoder", "encoder"), ("local decoder", "decoder")):
        sizes = {row.parameter: str(row.value) for row in table[table.component == component].itertuples()}
        student = scale("paper").student
        assert int(sizes["dimension"]) == student["byte_width"]
        assert int(sizes["num layers"]) == student[f"{prefix}_layers"]
        assert int(sizes["mamba2 d_state"]) == student["state_size"]
        assert int(sizes["mamba2 chunk_size"]) == student["chunk_size"]
        assert int(sizes["ffn expansion dim"]) == student["ffn_width"]
