"""The scales: known by name, complete, and at `paper` the published values, read from the published tables."""

import re
from dataclasses import replace
from inspect import signature

import pytest
from transformers import AutoModelForCausalLM

from dbyte import presets
from dbyte.__main__ import main
from dbyte.distill import teacher as teacher_module
from dbyte.distill.curriculum import curriculum
from dbyte.distill.sizes import check_sizes
from dbyte.distill.steps import stage1, stage2
from dbyte.distill.teacher import teacher_config
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher import check_family
from dbyte.paths import ROOT
from dbyte.presets import DEVICE, FAMILIES, PAPER_SIZES, SCALES, TEACHERS, changed, scale, whole_world
from dbyte.scale_file import STAGE1, STAGE2, STUDENT, TEXT, as_toml
from dbyte_paper.published import published
from dbyte_paper.variants import teachers
from dbyte_tasks.minibench import EVERY, taught_by


def test_an_unknown_scale_names_the_choices():
    with pytest.raises(ValueError, match="smoke, real, small, gpu, hub, paper"):
        scale("medium")


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:3"])
def test_the_device_of_every_scale_can_be_named_from_outside(device, monkeypatch):
    monkeypatch.setenv(TEXT, "some/folder")
    monkeypatch.setenv(DEVICE, device)
    assert {scale(name).device for name in SCALES} == {device}
    monkeypatch.setenv(DEVICE, "")
    assert [scale(name) for name in SCALES] == list(SCALES.values())
    monkeypatch.setenv(DEVICE, "gpu")
    for wrong in ("gpu", "tpu", "mps", "cuda:x", "cuda:-1", "CPU", " cpu"):
        monkeypatch.setenv(DEVICE, wrong)
        with pytest.raises(ValueError, match=rf"must be cpu, cuda or cuda:N, found '{wrong}': .* \$DBYTE_DEVICE"):
            scale("small")


@pytest.fixture
def mine(tmp_path):
    """Writes mine.toml and returns the scale that it is."""
    def written(text, *settings):
        (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
        return scale(str(tmp_path / "mine.toml"), settings)

    return written


def text_of(name):
    return (ROOT / "dbyte" / "scales" / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCALES)
def test_a_file_is_a_scale_of_its_name(name, mine, monkeypatch):
    monkeypatch.setenv(TEXT, "some/folder")
    same = replace(SCALES[name], name="mine")
    assert mine(text_of(name)) == same and mine(f'base = "{name}"') == same
    assert repr(mine(as_toml(same))) == repr(same), "1 and 1.0 are equal, and two addresses"


@pytest.mark.parametrize("old, new, message", [
    ("row_bytes =", "rowbytes =", r"mine.toml has an unknown key rowbytes .did you mean row_bytes.*: choose from t"),
    ("align_bytes =", "algn_bytes =",
     r"mine.toml: stage1 has an unknown key algn_bytes .did you mean align_bytes.*: choose from align_bytes, dist"),
    ("byte_width =", "x =", "student has an unknown key x: choose from byte_width"),
    ("muon_rate = 0.01", "muon = 0.01", "whole_world: teacher has an unknown key muon .*: choose from .*muon_rate"),
    ("rate = 5e-3", 'rate = "5"', "mine.toml: teacher: rate must be a number, found '5'"),
    ("seeds = 3", "seeds = 3.5", "mine.toml: ablation: seeds must be a whole number, found 3.5"),
    ("snapshots = 3", "snapshots = true", "stage1: snapshots must be a whole number, found True"),
    ("rate = 5e-3", "rate = nan", "teacher: rate must be a number, found nan"),
    ("rate = 5e-3", "rate = -inf", "teacher: rate must be a number, found -inf"),
    ("rate = 5e-3", "rate = true", "teacher: rate must be a number, found True"),
    ("boundary_loss = true", "boundary_loss = 1", "stage1: boundary_loss must be true or false, found 1"),
    ('[["world", 8_000_000]', '[["world"]',
     r"corpora must be \[a text in quotes, a whole number\], found \['world'\]"),
    ('[["world", 8_000_000]', '[["world", 0]', "mine.toml: corpora: world must be at least 1, found 0"),
    ("row_bytes = 1024", 'row_bytes = 1024\ndevice = "tpu"', "mine.toml: device must be cpu, cuda or cuda:N.* 'tpu'"),
    ("heldout_bytes = 100_000", "heldout_bytes = [1]", "mine.toml: heldout_bytes must be a whole number, found .1."),
    ("[teachers.own]", "", "mine.toml: teachers lacks own: give them, or .* base = .small"),
    ("align_bytes = 2_000_000", "", "mine.toml: stage1 lacks align_bytes"),
    ("row_bytes = 1024", "row_bytes = 0", "mine.toml: row_bytes must be at least 1, found 0"),
    ("vocabulary = 1024", "vocabulary = 99", "mine.toml: teacher: vocabulary must be at least 258, found 99"),
    ("width = 128", "width = 100", "mine.toml: teacher: width must be an even multiple of heads"),
    ("byte_width = 128", "byte_width = -4", "mine.toml: student: byte_width must be at least 1, found -4"),
    ("align_bytes = 2_000_000", "align_bytes = 0", "mine.toml: stage1: align_bytes must be at least 1, found 0"),
    ("kv_heads = 1", "kv_heads = 3", "mine.toml: teachers: other: .*kv_heads that divide"),
    ('family = "qwen3"', 'family = "gpt2"', "mine.toml: teachers: other: .*kv_heads that divide its heads"),
    ("row_bytes = 1024", "row_bytes 1024", "mine.toml is no TOML: .*line 6"),
    ("row_bytes = 1024", 'base = "medium"', "mine.toml: base must be one of gpu, hub, paper, real, small, smoke, fou"),
])
def test_a_file_with_a_wrong_key_type_or_value_is_refused_by_name(old, new, message, mine):
    assert old in text_of("small")
    with pytest.raises(ValueError, match=message):
        mine(text_of("small").replace(old, new, 1))


IMPOSSIBLE = {  # a table of a scale, and numbers that its fields never have, each after the field's name
    "": ["heldout_bytes 0 1e30", "row_bytes -1 1e30", "batch_rows 0 1e16", "items 0 1e30", "rows_at_once 0 1e30"],
    "teacher.": ["vocabulary 257 1e30", "width 0 1e30", "train_bytes 0 1e30", "rate -1e-3 1e30 1.5", "warmup -0.1 1.5",
                 "muon_rate -1e-3 1e30", "initial_std -1.0 9.0", "positions 0 1e30", "kv_heads -1 1e30"],
    "student.": ["byte_width 0 1e30", "ffn_width -1 1e30", "router_suffixes -1 1e30"],
    "stage1.": ["align_bytes 0 1e30", "boundary_bytes -5 1e16", "align_rate -1e-3 1e30", "core_rate -1e-9 1e30",
                "align_muon -0.1 1e30", "boundary_floor -0.1 1.5", "snapshots -1 1e30", "noisy -0.5 1.5",
                "vocabulary -0.5 1.5", "core_lora -1 1e30"],
    "stage2.": ["head_bytes 0 1e30", "head_muon -0.1 1e30", "own_bytes -1 1e30",
                "batch_rows -1 1e30", "outer_rate -1 2"],
    "ablation.": ["seeds 0 1e30", "recipe_share -1.0 1.5", "step_bytes 0 1e30"],
    "on_policy.": ["rate -1.0 1e30", "temperature -0.1 1e30", "most 0 1e30", "teacher_share -0.5 1.5"],
    "whole_world.teacher.": ["rate -1.0 1e30", "initial_std -1.0 2.0"]}


@pytest.mark.parametrize("table", IMPOSSIBLE)
def test_a_number_that_no_run_can_have_is_refused_where_the_scale_is_read(table):
    for field, *numbers in map(str.split, IMPOSSIBLE[table]):
        for number in numbers:
            bound = "most" if float(number) > 1 and number != "257" else "least"
            with pytest.raises(ValueError, match=rf"{field} must be at {bound} [\d.,]+, found \S+$") as told:
                scale("small", [f"{table}{field}={number}"])
            assert float(str(told.value).split()[-1]) == float(number)


@pytest.mark.parametrize("text, message", [
    ("teacher.betas=[0.9, 1.0]", "teacher: betas must be at most 0.99999, found 1.0"),
    ("ablation.doses=[0.5, -1.0]", "ablation: doses must be at least 0.001, found -1.0"),
    ("ablation.budgets=[1e30]", "ablation: budgets must be at most 1,000, found"),
    ('corpora=[["world", 1e30]]', "corpora: world must be at most 1,000,000,000,000,000, found 1"),
    ("corpora=[]", "corpora must name at least one"),
    ('whole_world.lessons=[{corpora=[["world", 5]], train_bytes=1e30}]', "lessons: train_bytes must be at most 1,0"),
])
def test_a_number_in_an_array_is_refused_with_its_field(text, message):
    with pytest.raises(ValueError, match=message):
        scale("small", [text])


def test_what_means_without_such_a_part_is_read():
    zeros = ["stage1.core_rate=0", "stage1.snapshots=0", "stage1.boundary_floor=0", "stage2.batch_rows=0",
             "student.ffn_width=0", "teacher.kv_heads=0", "stage1.align_muon=0", "on_policy.temperature=0"]
    found = scale("small", zeros)
    assert found.stage1["core_rate"] == found.student["ffn_width"] == found.on_policy.temperature == 0


def test_a_file_changes_its_base_field_by_field(mine):
    found = mine('base = "small"\ncorpora = [["pydocs", 2e6]]\n[teacher]\nlayers = 3.0\nrate = 1\n'
                 "[stage1]\nalign_bytes = 20e6\n[teachers.larger]\nwidth = 240\n[student]\nsmoothing = true\n")
    small = SCALES["small"]
    shape = replace(small.teacher, layers=3, rate=1.0)
    wanted = replace(
        small, name="mine", corpora=(("pydocs", 2_000_000),), teacher=shape,
        student={**small.student, "smoothing": True}, stage1={**small.stage1, "align_bytes": 20_000_000},
        teachers=replace(small.teachers, own=shape, larger=replace(small.teachers.larger, width=240, rate=1.0),
                         other=replace(small.teachers.other, rate=1.0),
                         sizes=(*(replace(one, rate=1.0) for one in small.teachers.sizes[:-1]), shape)))
    assert repr(found.teacher) == repr(shape) and found == wanted
    assert type(found.corpora[0][1]) is type(found.stage1["align_bytes"]) is int
    assert whole_world(found).teacher.layers == 3 and whole_world(found).continues.continues.teacher.rate == 1e-3


def test_a_setting_changes_one_field_and_the_name(mine):
    found = scale("small", ["stage1.align_bytes=20e6", "teacher.vocabulary = 300"])
    small = SCALES["small"]
    assert found.stage1 == {**small.stage1, "align_bytes": 20_000_000}
    assert found.teacher == replace(small.teacher, vocabulary=300)
    assert re.fullmatch(r"small-[0-9a-f]{6}", found.name)
    assert scale("small", ["teacher.vocabulary=3_00", "stage1.align_bytes=2e7"]) == found, "one meaning, one name"
    assert scale("small", ["teacher.vocabulary=301"]).name != scale("small", ["teacher.vocabulary=300"]).name
    assert mine('base = "small"', "items=7").name.startswith("mine-") and mine('base = "small"', "items=7").items == 7
    assert scale("small", ["items=7", "items=8"]).items == 8, "the last one counts"


@pytest.mark.parametrize("text, message", [
    ("stage1.algn_bytes=1", "setting 'stage1.algn_bytes=1': stage1 has an unknown key algn_bytes .did you mean align"),
    ("bases=1", "setting 'bases=1' has an unknown key bases: choose from teacher, corpora"),
    ("stage1.align_bytes=lots", "stage1: align_bytes must be a whole number, found 'lots'"),
    ("stage1=5", "setting 'stage1=5': stage1 must be a table, found 5"),
    ("stage1.align_bytes", "a setting is FIELD=VALUE, such as .*found 'stage1.align_bytes'"), ("=5", "a setting is"),
    ("ablation.recipe_share=0", "ablation: recipe_share must be at least 0.001, found 0"),
    ("a b=5", "a setting is"), ("items=0", "small.toml with items=0: items must be at least 1, found 0"),
])
def test_a_setting_of_no_field_or_type_is_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        scale("small", [text])


def test_a_teacher_from_elsewhere_takes_the_teachers_away_that_were_told_by_its_sizes(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    found = scale("small", ["teacher=model"])
    assert found.teacher == str(tmp_path / "model") and found.teachers is None and whole_world(found) == found
    with pytest.raises(ValueError, match=f"scale {found.name} names no other teachers.*own, larger and other"):
        teachers(found)
    assert scale("hub", ["teacher=no/folder"]).teachers == SCALES["hub"].teachers
    assert scale("hub", ["teacher=no/folder"]).teacher == "no/folder"
    named = mine('base = "small"\nteacher = "model"\nteachers = {own = "model", larger = "b", other = "c"}')
    assert teachers(named)[1].predictions == "b"
    for text, lacks in (('base = "hub"\nteacher = {width = 64}', "teacher lacks vocabulary, layers, heads"),
                        ('base = "small"\nteacher = "a"\nteachers.larger = "b"', "teachers lacks own, other")):
        with pytest.raises(ValueError, match=f"mine.toml: {lacks}"):
            mine(text)


def test_a_file_is_found_from_the_root_too_and_never_has_a_built_in_name(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for name in ("mine", "small", "a b"):
        (tmp_path / f"{name}.toml").write_text('base = "smoke"\nitems = 7\n', encoding="utf-8")
    monkeypatch.setattr(presets, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path / "notebooks")
    assert scale("mine.toml") == scale("../mine.toml") == replace(SCALES["smoke"], name="mine", items=7)
    with pytest.raises(FileNotFoundError, match="no file 'other.toml'.*scales show small"):
        scale("other.toml")
    with pytest.raises(ValueError, match="choose one of smoke.*or a file such as my_run.toml"):
        scale("mine")
    for name in ("small.toml", "a b.toml"):
        with pytest.raises(ValueError, match=f"{name} would write to results/.*rename"):
            scale(name)


@pytest.mark.parametrize("text", ["teacher.vocabulary=1e12", "teacher.layers=1e9", "student.byte_width=1e9",
                                  "student.ffn_width=1e12", "batch_rows=1e12", "rows_at_once=1e12"])
def test_a_size_beyond_every_model_is_refused_where_it_is_read(text):
    name = text.split("=")[0].split(".")[-1]
    with pytest.raises(ValueError, match=f"{name} must be at most 1"):
        scale("small", [text])


def test_widths_that_a_student_cannot_hold_are_refused_without_a_scale():
    with pytest.raises(ValueError, match="no memory holds a part of these sizes"):
        StudentConfig(byte_width=10**11)


def test_sizes_that_only_a_model_or_a_step_can_judge_are_told_with_their_table():
    for text, message in (("student.head_width=7", "student: .* must be a multiple of head_width = 7"),
                          ("student.router=none", "student: router must be one of .*'none'"),
                          ("stage1.align_rate=0", "stage1: step .1.1 align. .* positive rates.* 0 for byte_embedding"),
                          ("stage2.head_rate=0", "stage2: step '2.1 head' .* positive rates"),
                          ("student.byte_width=900000", "student: its weights alone would take .* GB, and this"),
                          ("teacher.layers=900000", "teacher: its weights alone would take .* GB, and this machine"),
                          ("row_bytes=2", r"row_bytes must lie in 3\.\.65534, found 2"),
                          ("row_bytes=1e6", r"row_bytes must lie in 3\.\.65534, found 1000000"),
                          ('benchmarks=["PIQB"]', "unknown column 'PIQB': choose from LMB")):
        with pytest.raises(ValueError, match=message):
            check_sizes(scale("small", [text]))
    for one in SCALES.values():
        check_sizes(one)


def test_the_command_lists_the_scales_and_prints_a_file_to_begin_with(mine, tmp_path, capsys):
    assert main(["scales"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(SCALES)
    small = lines[1 + list(SCALES).index("small")]
    assert "world 8, pydocs 5" in small and small.split()[-6:] == ["2", "1.5", "3", "1", "1.5", "cpu"]
    assert main(["scales", "show", "small"]) == 0
    assert mine(capsys.readouterr().out) == replace(SCALES["small"], name="mine")
    assert main(["scales", "show", str(tmp_path / "mine.toml"), "--set", "items=7"]) == 0
    assert mine(capsys.readouterr().out) == replace(SCALES["small"], name="mine", items=7)
    assert main(["scales", "show", "medium"]) == 2
    assert main(["train", "--scale", "small", "--set", "itms=7"]) == 2
    assert "did you mean items?" in capsys.readouterr().err


def test_a_tokenizer_learns_from_the_corpora_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_module, "RUNS", tmp_path)
    own = f"file:{tmp_path / 'own.txt'}"
    (tmp_path / "own.txt").write_text("\n\n".join(f"{n} Quokkas, quokkas and quokkas." for n in range(400)))
    found = changed(scale("smoke", ["teacher.vocabulary=270"]), corpora={own: 9_000})
    assert "Qu" in "".join(teacher_module._tokenizer(found, continued=None, seed=0).tokenize("Quokkas")[:1])
    both = changed(found, corpora={own: 9_000, "world": 9_000})
    tokens = teacher_module._tokenizer(both, continued=None, seed=0).tokenize("Quokkas")
    assert len(tokens) > 4, "the corpora that the scale names are there, so they alone are read"
    with pytest.raises(ValueError, match=r"of 1024 tokens.*--set teacher.vocabulary=\d+\)"):
        teacher_module._tokenizer(changed(scale("smoke"), corpora={own: 9_000}), continued=None, seed=0)


def test_the_keys_of_a_file_are_the_arguments_of_what_they_go_to():
    for keys, function in ((STAGE1, stage1), (STAGE2, stage2)):
        parameters = {name: one.annotation for name, one in signature(function).parameters.items()}
        parameters |= {"decoding": str} if "decoding" in parameters else {}  # a file has no None
        assert keys == parameters
    assert STUDENT.items() <= StudentConfig.__annotations__.items()
    assert SCALES["hub"].student == PAPER_SIZES


@pytest.mark.parametrize("name", [name for name in SCALES if name != "real"])  # which names no other teachers
def test_the_teachers_of_table_10_differ_in_size_or_in_family(name):
    own, larger, other, sizes = vars(scale(name).teachers).values()
    if isinstance(own, str):
        assert {own, larger, other} <= TEACHERS.keys(), "a hub name without its revision is another model tomorrow"
        return
    assert own == scale(name).teacher
    assert (larger.vocabulary, larger.tokenizer_corpora, larger.train_bytes, larger.family) == (
        own.vocabulary, own.tokenizer_corpora, own.train_bytes, own.family)
    assert larger.width > own.width and larger.layers > own.layers
    sizes = sizes or (own, larger)
    assert sizes == tuple(sorted(sizes, key=lambda one: one.width)) and len({one.width for one in sizes}) == len(sizes)
    one_policy = {(one.vocabulary, one.tokenizer_corpora) for one in (own, larger, other, *sizes)}
    assert len(one_policy) == 1, "a vocabulary must not be mistaken for a size or a family"
    assert len({(one.train_bytes, one.family) for one in sizes}) == 1
    assert (other.width, other.layers) == (sizes[0].width, sizes[0].layers) and other.family != own.family
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
        assert replace(earlier.teacher, train_bytes=1) == replace(whole.teacher, train_bytes=1), "one model goes on"
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
