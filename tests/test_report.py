"""Results, tables and figures: what is written is what is read, scales never mix, summaries follow from their rows."""

import hashlib
import json
import math
import time

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.patches import FancyBboxPatch

from dbyte import presets
from dbyte.atomic import atomic_write
from dbyte.distill.curriculum import curriculum
from dbyte.distill.runs import Run
from dbyte.text.perturb import KINDS
from dbyte_paper import ablations, diagrams, figures, tables, under_noise
from dbyte_paper.published import published
from dbyte_paper.published import tables as published_tables
from dbyte_paper.results import Recorder, read_results, write_results

MAIN = [{"model": model, "task": task, "value": level - drop, "stderr": 1.5, "n": 200}
        for model, drop in (("teacher", 0.0), ("stage1", 1.0), ("stage2", 4.0))
        for task, level in (("LMB", 80.0), ("ARC-E", 90.0))]
DYNAMICS = [{"model": "teacher", "step": "", "train_bytes": 0, "task": "LMB", "value": 80.0, "stderr": 1.0, "n": 200}]
DYNAMICS += [{**DYNAMICS[0], "model": "student", "step": step, "train_bytes": size, "value": value}
             for step, size, value in (("1.1", 0, 1.0), ("1.1", 10**6, 60.0), ("1.2", 2 * 10**6, 78.0))]


def write(folder, rows=MAIN, *, name="main", scale="smoke", keys=("model", "task")):
    return write_results(name, rows, scale=scale, keys=keys, seeds=[0, 1], config_hash="abc", wall_seconds=2.0,
                         folder=folder)


def test_results_come_back_as_written_and_sorted_whatever_the_order(tmp_path):
    path = write(tmp_path)
    text = path.read_bytes()
    frame = read_results("main", scale="smoke", folder=tmp_path)
    assert {tuple(row) for row in frame.itertuples(index=False)} == {tuple(row.values()) for row in MAIN}
    assert list(frame["model"] + frame["task"]) == sorted(frame["model"] + frame["task"])
    assert write(tmp_path, MAIN[::-1]).read_bytes() == text, "the order of measuring must not show in a diff"
    # dtype survives: the step "1.10" is a name, and an unsampled error stays missing.
    rows = [{"step": "1.10", "value": 3, "stderr": math.nan, "n": 1, "note": "NA"}]
    write(tmp_path, rows, name="steps", keys=["step"])
    back = read_results("steps", scale="smoke", folder=tmp_path)
    assert back.at[0, "step"] == "1.10" and back.at[0, "note"] == "NA" and math.isnan(back.at[0, "stderr"])


def test_every_result_names_how_it_was_made(tmp_path):
    path = write(tmp_path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["scale"] == "smoke" and sidecar["seeds"] == [0, 1] and sidecar["config_hash"] == "abc"
    assert sidecar["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sidecar["versions"]["torch"] and sidecar["commit"] and sidecar["device"].startswith("cpu")
    assert sidecar["wall_seconds"] == 2.0


def test_a_recorder_writes_what_write_results_does_and_the_time_of_its_block(tmp_path):
    record = Recorder("smoke", seeds=[0, 1], folder=tmp_path / "recorded")
    with record("main", keys=["model", "task"], of="abc") as rows:
        time.sleep(0.2)
        rows += MAIN
    plain, recorded = write(tmp_path), tmp_path / "recorded" / "smoke" / "main.csv"
    assert recorded.read_bytes() == plain.read_bytes() and record.read("main").equals(read_results(
        "main", scale="smoke", folder=tmp_path))
    sidecars = [json.loads(path.with_suffix(".json").read_text()) for path in (plain, recorded)]
    assert sidecars[1].pop("wall_seconds") >= 0.2
    assert sidecars[0] | {"wall_seconds": None} == sidecars[1] | {"wall_seconds": None}


def test_a_recorder_names_the_run_and_writes_nothing_for_a_block_that_fails(tmp_path):
    record, run = Recorder("smoke", seeds=[0], folder=tmp_path), Run({"step": "1.1"}, root=tmp_path)
    with pytest.raises(ValueError, match="extend"), record("main", keys=["model", "task"], of=run) as rows:
        rows = MAIN  # noqa: F841
    with pytest.raises(KeyError), record("main", keys=["model", "task"], of=run) as rows:
        rows += MAIN
        raise KeyError("measuring failed")
    assert not list(tmp_path.rglob("main.*"))
    with record("main", keys=["model", "task"], of=run) as rows:
        rows += MAIN
    assert record.read("main").attrs["provenance"]["config_hash"] == run.hash[:16] == run.folder.name


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: rows.clear(), "at least one row"),
    (lambda rows: [row.pop("n") for row in rows], "need the columns"),
    (lambda rows: rows.append(dict(rows[0])), "more than one row"),
    (lambda rows: rows[0].update(n=0), "at least 1"),
    (lambda rows: rows[0].update(value=math.nan), "leave out"),
    (lambda rows: rows[0].update(stderr=-1.0), "at least 0"),
])
def test_rows_that_are_not_tidy_are_refused_and_nothing_is_written(tmp_path, change, message):
    rows = [dict(row) for row in MAIN]
    change(rows)
    with pytest.raises(ValueError, match=message):
        write(tmp_path, rows)
    assert not list(tmp_path.rglob("*.csv"))


def test_a_result_is_never_read_for_another_scale_nor_after_an_edit(tmp_path):
    path = write(tmp_path)
    with pytest.raises(FileNotFoundError, match="reproduce --scale small"):
        read_results("main", scale="small", folder=tmp_path)
    (tmp_path / "small").mkdir()
    for file in path.parent.iterdir():
        (tmp_path / "small" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="at scale 'smoke'"):
        read_results("main", scale="small", folder=tmp_path)
    path.write_text(path.read_text().replace("80", "99"))
    with pytest.raises(ValueError, match="edited by hand"):
        read_results("main", scale="smoke", folder=tmp_path)


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path):
    atomic_write(tmp_path / "a.txt", "old\n")
    with pytest.raises(TypeError):
        atomic_write(tmp_path / "a.txt", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old\n"


def test_drop_and_retention_by_hand():
    teacher = pd.DataFrame({"value": [80.0, 60.0, 50.0], "stderr": [3.0, 4.0, 0.0]}, index=list("abc"))
    student = pd.DataFrame({"value": [65.0, 70.0, 1.0], "stderr": [4.0, 3.0, 0.0]}, index=list("bad"))
    drop = tables.average_drop(teacher, student.assign(stderr=0.0))
    assert drop.value == pytest.approx((10 - 5) / 2) and drop.stderr == pytest.approx(2.5) and drop.n == 2
    kept = tables.retention_of_means(teacher.assign(stderr=0.0), student)
    assert kept.value == pytest.approx(100 * 135 / 140) and kept.stderr == pytest.approx(100 * 5 / 140)
    assert math.isnan(tables.average_drop(teacher.assign(stderr=math.nan), student).stderr)
    assert tables.retention_of_means(teacher, teacher).value == 100


def test_every_published_table_is_there_with_its_source():
    assert len(published_tables()) == 13
    for name in published_tables():
        frame = published(name)
        assert len(frame) and frame.attrs["source"] == f"arXiv 2602.01007, Table {int(name[5:7])}"


def test_main_table_has_the_teacher_first_and_its_own_columns(tmp_path):
    write(tmp_path)
    table = tables.main_table(read_results("main", scale="smoke", folder=tmp_path))
    assert list(table["model"]) == ["teacher", "stage1", "stage2"]
    assert list(table) == ["model", "LMB", "ARC-E", "average drop", "retention %"]
    assert table.at[0, "average drop"] == "" and table.at[1, "average drop"].startswith("1.0 ±")
    lines = tables.markdown(table).split("\n")
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1


def test_words_with_a_dollar_are_code_so_that_two_of_them_are_no_formula():
    given = ["file:$DBYTE_TEXT", "bits, %, file:$A, Stage 1", "`$B` as it is"]
    table = tables.markdown(pd.DataFrame({"corpus": given}))
    assert table.split("\n")[2:] == ["| `file:$DBYTE_TEXT` |", "| bits, %, `file:$A`, Stage 1 |", "| `$B` as it is |"]


@pytest.mark.parametrize(("ours", "stderr", "bounds", "verdict"), [
    (98.0, 0.2, {"at_least": 97.0}, "holds"), (98.0, 0.9, {"at_least": 97.0}, "holds (within error)"),
    (96.0, 0.2, {"at_least": 97.0}, "fails"), (1.0, 0.1, {"at_most": 0.5}, "fails"),
    (0.4, math.nan, {"at_most": 0.5}, "holds"),
])
def test_verdicts(ours, stderr, bounds, verdict):
    assert tables.target("it works", ours, 10, stderr, **bounds)["verdict"] == verdict


def drawn(folder):
    write(folder)
    write(folder, DYNAMICS, name="dynamics", keys=["model", "step", "train_bytes", "task"])
    main, dynamics = (read_results(name, scale="smoke", folder=folder) for name in ("main", "dynamics"))
    paper = figures.paper_rows(published("table01_main"))
    return [
        figures.save(figure_2(dynamics), "dynamics", frames=[dynamics], folder=folder / "figures"),
        figures.save(figures.retention_figure(main, paper=paper), "retention", frames=[main],
                     published=["table01_main"], folder=folder / "figures"),
        figures.write_png(diagrams.pipeline_figure(curriculum(presets.scale("paper"))), folder / "pipeline.png"),
        figures.write_png(diagrams.alignment_figure([("text", [b"a", b"\xf0\x9f", b"\x99\x82 b"])]), folder / "a.png"),
    ]


def test_figures_are_the_same_bytes_again_and_name_what_they_read(tmp_path):
    first, second = drawn(tmp_path / "one"), drawn(tmp_path / "two")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
        assert one.read_bytes().startswith(b"\x89PNG") and b"Software" not in one.read_bytes()
    sidecar = json.loads(first[1].with_suffix(".json").read_text())
    data = (tmp_path / "one" / "smoke" / "main.csv").read_bytes()
    assert sidecar["reads"] == {"results/smoke/main.csv": hashlib.sha256(data).hexdigest()}
    assert sidecar["published"] == ["table01_main"] and first[1].parent.name == sidecar["scale"] == "smoke"


def test_a_figure_refuses_numbers_without_origin_or_of_two_scales(tmp_path):
    frames = []
    for scale in ("smoke", "small"):
        write(tmp_path, scale=scale)
        frames.append(read_results("main", scale=scale, folder=tmp_path))
    figure = diagrams.pipeline_figure(curriculum(presets.scale("paper")))
    with pytest.raises(ValueError, match="mixes the scales"):
        figures.save(figure, "x", frames=frames, folder=tmp_path)
    with pytest.raises(ValueError, match="read_results returned"):
        figures.save(figure, "x", frames=[pd.DataFrame(MAIN)], folder=tmp_path)


def figure_2(dynamics):
    steps = dynamics[dynamics.model == "student"].assign(model="step " + dynamics.step, chance=25.0)
    return ablations.curves_figure(steps, ["step 1.1", "step 1.2"], teacher=dynamics[dynamics.model == "teacher"])


def test_figure_2_shows_every_point_at_its_megabytes_next_to_the_teacher():
    (axes,) = figure_2(pd.DataFrame(DYNAMICS)).axes
    lines = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes.containers}
    assert lines == {"step 1.1": [[0.0, 1.0], [1.0, 60.0]], "step 1.2": [[2.0, 78.0]]}
    assert [80.0, 80.0] in [list(line.get_ydata()) for line in axes.lines], "the teacher's line"


@pytest.mark.parametrize(("scale", "routers"), [("paper", 1), ("small", 4)])
def test_the_pipeline_shows_what_each_step_of_the_scale_trains(scale, routers):
    steps = curriculum(presets.scale(scale))
    (axes,) = diagrams.pipeline_figure(steps).axes
    trained = [box for box in axes.patches
               if isinstance(box, FancyBboxPatch) and same_color(box.get_facecolor(), diagrams.TRAIN_COLOUR)]
    rows = [round(box.get_y() / diagrams.RISE) for box in trained]
    assert rows.count(list(diagrams.PARTS).index("router")) == routers
    for index, step in enumerate(steps, start=1):
        parts = {part for group in step.groups for part in group.parts}
        expected = sum(bool(parts & set(modules)) for modules in diagrams.PARTS.values())
        assert sum(abs(box.get_x() - index * diagrams.PITCH) < 0.1 for box in trained) == expected, step.name


def test_characters_cover_every_byte_once():
    text = "naïve 🦖 日本\n".encode() + b"\xff"
    spans = diagrams.characters(text)
    assert [start for start, _, _ in spans] == [0] + [start + size for start, size, _ in spans][:-1]
    assert sum(size for _, size, _ in spans) == len(text) and spans[-1][2] == "·"


def exposure_rows():
    return [{"model": model, "corpus": "world", "text": text, "first": first, "value": value, "stderr": 1.0, "n": 100,
             "last": first + 7, "deviating": value} for model, text, first, value in
            (("JBP", "given", 0, 2), ("JBP", "given", 8, 4), ("JBP", "written", 0, 6), ("MBP", "given", 0, 10))]


def test_exposure_is_drawn_bin_by_bin_and_summed_over_bytes():
    frame = pd.DataFrame(exposure_rows())
    figure = figures.exposure_figure(frame)
    (axes,) = figure.axes
    drawn = {container.get_label(): [tuple(map(float, point)) for point in container.lines[0].get_xydata()]
             for container in axes.containers}
    assert drawn == {"JBP, given text": [(3.5, 2.0), (11.5, 4.0)], "JBP, written text": [(3.5, 6.0)],
                     "MBP, given text": [(3.5, 10.0)]}
    below = figure.get_supxlabel()
    for words in {part for label in drawn for part in label.split(", ")}:
        assert f"{words}: " in below, "what the legend names is defined in the figure"
    shares = tables.agreement_table(frame).set_index("model")
    assert shares.loc["JBP", "given"] == pytest.approx(97.0) and shares.loc["JBP", "written"] == pytest.approx(94.0)
    assert shares.loc["MBP", "given"] == pytest.approx(90.0)


def test_differences_are_next_to_those_of_table_4():
    frame = pd.DataFrame([{"what": what, "value": 3.0, "low": 1.0, "high": 5.0, "n": 10, "verdict": "shown"}
                          for what in ("GSM8K", "GSM8K beyond the others")])
    shown = tables.decoding_differences(frame)
    table04 = published("table04_decoding").set_index("decoding").GSM8K
    assert shown.paper.tolist() == [f"{table04.JBP - table04.MBP:+.1f}", ""]
    assert shown["95 % interval"].tolist() == ["+1.0 to +5.0"] * 2


def test_averages_are_over_the_columns_of_the_paper_alone(tmp_path):
    """SPELL is asked as well, but the paper has no such column; of CUTE the paper has none, so all count."""
    rows = MAIN + [{"model": model, "task": "SPELL", "value": value, "stderr": 9.0, "n": 200}
                   for model, value in (("teacher", 90.0), ("stage1", 10.0), ("stage2", 20.0))]
    table, without = (tables.main_table(pd.DataFrame(each)).set_index("model") for each in (rows, MAIN))
    assert table.at["stage1", "SPELL"] == "10.0 ± 9.0"
    for summary in ("average drop", "retention %"):
        assert list(table[summary]) == list(without[summary]) and without.at["stage2", summary]
    letters = [row | {"task": "spell" if row["task"] == "LMB" else "contains"} for row in MAIN]
    assert list(tables.main_table(pd.DataFrame(letters))["average drop"]) == list(without["average drop"])


def test_the_main_table_has_the_student_of_all_columns_below_the_main_one():
    four = pd.DataFrame(MAIN)
    nine = four.assign(value=four["value"] - 30)
    nine = pd.concat([nine, nine[nine["task"] == "LMB"].assign(task="MMLU", value=33.0)])
    table = tables.both_students(four, nine).set_index("model")
    assert list(table.index) == ["teacher", "stage1", "stage2"] + [f"{name}, all columns" for name in
                                                                   ("teacher", "stage1", "stage2")]
    assert list(table) == ["LMB", "ARC-E", "MMLU", "average drop", "retention %"]
    assert list(table.loc["stage1"]) == ["79.0 ± 1.5", "89.0 ± 1.5", "", "1.0 ± 1.5", "98.8 ± 1.8"]
    assert list(table.loc["stage1, all columns"])[:3] == ["49.0 ± 1.5", "59.0 ± 1.5", "33.0 ± 1.5"]
    assert table.at["stage1, all columns", "average drop"].startswith("0.7"), "against its own teacher: (1 + 1 + 0) / 3"


def test_a_task_without_numbers_says_so_where_its_dots_would_be():
    figure = figures.retention_figure(pd.DataFrame(MAIN), paper=figures.paper_rows(published("table01_main")))
    found = {axes.get_title(loc="left"): [(text.get_text(), labels[round(text.get_position()[1])])
                                          for text in axes.texts]
             for axes in figure.axes for labels in [[label.get_text() for label in axes.get_yticklabels()]]}
    missing = ("HellaS", "PIQA", "ARC-C", "WINO", "OBQA", "MMLU")
    assert found == {"this run": [("not measured", task) for task in missing], "paper, Llama-3.2-3B": [],
                     "paper, Qwen3-4B": []}
    more = pd.DataFrame([row | {"task": "GSM8K"} for row in MAIN if row["task"] == "LMB"])
    paper = figures.retention_figure(more, paper=figures.paper_rows(published("table01_main"))).axes[1]
    assert [text.get_text() for text in paper.texts] == ["not in the paper's table"]


TEACHERS = pd.DataFrame([{"model": model, "task": task, "value": value} for model, values in
                         (("own", (90.0, 70.0)), ("larger", (80.0, 100.0)))
                         for task, value in zip(("LMB", "ARC-E"), values, strict=True)])


@pytest.mark.parametrize(("teacher", "expected"), [
    (TEACHERS, {"LMB": [90.0, 80.0], "ARC-E": [70.0, 100.0], "average": [80.0, 90.0]}),
    (TEACHERS[TEACHERS["model"] == "own"], {"LMB": [90.0, 90.0], "ARC-E": [70.0, 70.0], "average": [80.0, 80.0]})])
def test_each_bar_has_the_line_of_its_own_teacher_or_of_the_one_that_all_have(teacher, expected):
    rows = pd.DataFrame([{"model": model, "task": task, "value": 50.0, "stderr": 1.0, "chance": 0.0}
                         for model in ("own", "larger") for task in ("LMB", "ARC-E", "average")])
    figure = ablations.accuracy_figure(rows, ["own", "larger"], teacher=teacher)
    lines = {axes.get_title(loc="left"): axes.collections[-1].get_segments() for axes in figure.axes}
    assert {task: [float(line[0][0]) for line in drawn] for task, drawn in lines.items()} == expected
    for drawn in lines.values():  # the first bar is at height 0, the second at 1
        assert [(float(line[0][1]), float(line[1][1])) for line in drawn] == [(-0.5, 0.5), (0.5, 1.5)]


def test_a_loss_is_drawn_against_all_bytes_that_its_student_read():
    curves = pd.DataFrame([{"model": model, "train_bytes": size, "value": 1.0, "stderr": 0.1} for model, size in
                           (("two steps", 3), ("two steps", 6), ("one step", 6), ("one step", 12))])
    dynamics = pd.DataFrame([{"model": model, "train_bytes": size} for model in ("two steps", "one step")
                             for size in (4, 12)])
    counted = ablations.since_the_first_byte(curves, dynamics)
    assert list(counted["train_bytes"]) == [9, 12, 6, 12], "the first step of two had 6 bytes"
    (axes,) = ablations.loss_figure(counted, ["two steps", "one step"], label="x").axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[9e-6, 12e-6], [6e-6, 12e-6]]


def test_what_is_kept_above_chance_by_hand():
    """Three quarters of what a teacher has above a chance of 50 and 0, where plain retention would say 82 %."""
    rows = [{"model": model, "task": task, "value": value, "stderr": 1.0, "n": 100, "chance": chance}
            for model, task, value, chance in (("teacher", "PIQA", 90.0, 50.0), ("teacher", "LMB", 90.0, 0.0),
                                               ("s", "PIQA", 80.0, 50.0), ("s", "LMB", 67.5, 0.0))]
    table = tables.main_table(pd.DataFrame(rows)).set_index("model")
    assert table.at["s", "retention %"].startswith("81.9 ±") and table.at["s", "above chance %"].startswith("75.0 ±")
    level, student = (pd.DataFrame(each).set_index("task") for each in (rows[:2], rows[2:]))
    kept = tables.retention_of_means(level, student, above_chance=True)
    assert kept.stderr == pytest.approx(100 * (2 + 2 * 0.75**2) ** 0.5 / 130)
    guesser = pd.DataFrame([row | {"value": row["chance"]} for row in rows])
    assert "above chance %" not in tables.main_table(guesser)


def test_of_a_teacher_that_scores_nothing_no_share_is_printed():
    rows = [{"model": model, "task": task, "value": 0.0, "stderr": 0.0, "n": 9}
            for model in ("teacher", "student") for task in ("A", "B")]
    table = tables.main_table(pd.DataFrame(rows))
    assert "retention %" not in table and list(table["average drop"]) == ["", "0.0 ± 0.0"]


# -- appendix A --------------------------------------------------------------------------------------------------------

MODELS = ("teacher", "stage1", "stage2")
CHANCE = {"ARC-E": 0.25, "Prose": 0.25, "average": 0.25}


def answers(seed):
    rng = np.random.default_rng(seed)
    return {task: {kind: rng.binomial(1, 0.8, 40).astype(float) for kind in ("clean", *KINDS)}
            for task in ("ARC-E", "Prose")}


ANSWERS = {model: answers(seed) for seed, model in enumerate(MODELS)}
ACCURACY = pd.DataFrame([row for model in MODELS for row in under_noise.noise_rows(model, ANSWERS[model], CHANCE)])
SCORES = pd.DataFrame([row for model in MODELS for row in under_noise.score_rows(model, ANSWERS[model], CHANCE)])


def test_a_row_a_task_and_perturbation_the_average_last():
    table = tables.by_noise(ACCURACY, models=MODELS)
    assert len(table) == 3 * 7 and list(table)[2:5] == list(MODELS) and set(table.task[-7:]) == {"average"}
    cell = ACCURACY[(ACCURACY.model == "stage1") & (ACCURACY.task == "Prose") & (ACCURACY.kind == "drop")].iloc[0]
    shown = table[(table.task == "Prose") & (table.noise == "drop")].iloc[0]
    assert shown["stage1"] == f"{cell.value:.1f} ± {cell.stderr:.1f}"


@pytest.mark.parametrize("name, columns", [
    ("table06_robustness", {"teacher": "llama-3.2-3b/baseline", "stage1": "llama-3.2-3b/stage1"}),
    ("table07_boundary_optimization", {"stage1": "trim data"}),
    ("table08_perturbed_finetuning", {"teacher": "finetuned/token"}),
])
def test_ours_are_next_to_every_metric_that_the_paper_prints(name, columns):
    table, paper = tables.robustness_with_paper(name, columns, ACCURACY, SCORES), published(name).set_index("metric")
    assert set(paper.index) <= set(table.metric)
    for row in table.to_dict("records"):
        for ours, theirs in columns.items():
            printed = paper.at[row["metric"], theirs] if row["metric"] in paper.index else float("nan")
            assert row[f"paper, {ours}"] == pytest.approx(printed, nan_ok=True)
            assert not np.isnan(row[f"ours, {ours}"])


def test_a_score_that_is_not_defined_is_left_empty():
    columns = {"teacher": "qwen3-4b/baseline"}
    table = tables.robustness_with_paper("table06_robustness", columns, ACCURACY, SCORES.iloc[:0])
    assert table.set_index("metric")["ours, teacher"].isna().sum() == 2


def test_every_accuracy_is_drawn_at_its_place_with_its_chance():
    figure = figures.robustness_figure(ACCURACY)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ARC-E", "Prose", "average"]
    for axes in figure.axes:
        for container, model in zip(axes.containers, MODELS, strict=True):
            part = ACCURACY[(ACCURACY.model == model) & (ACCURACY.task == axes.get_title(loc="left"))].set_index("kind")
            assert container.lines[0].get_xdata() == pytest.approx(part["value"][["clean", *KINDS]].to_numpy())
        assert axes.lines[0].get_xdata() == [25.0, 25.0]


def test_verdicts_keep_their_order_and_claim():
    rows = under_noise.robustness_claims(*ANSWERS.values(), within=3)
    table = tables.differences(pd.DataFrame(rows))
    assert len(table) == len(rows) == 5 * 3 and table.claimed[0] == "above -3"
    assert set(table.verdict) <= {"shown", "not shown", "opposite"}


@pytest.mark.parametrize(("message", "asked"), [
    ("missing stage2", lambda: figures.robustness_figure(ACCURACY[ACCURACY.model != "stage2"])),
    ("Stage 1, then of Stage 2", lambda: diagrams.pipeline_figure(curriculum(presets.scale("paper"))[::-1])),
    ("empty", lambda: diagrams.alignment_figure([("nothing", [])])),
    ("share no column", lambda: tables.average_drop(pd.DataFrame({"value": 1.0, "stderr": 1.0}, index=["a"]),
                                                    pd.DataFrame({"value": 1.0, "stderr": 1.0}, index=["b"]))),
    ("a model 'teacher'", lambda: tables.main_table(pd.DataFrame(MAIN[2:]))),
    ("table01_main", lambda: published("table1")),
])
def test_what_cannot_be_shown_is_refused_with_its_reason(message, asked):
    with pytest.raises(ValueError, match=message):
        asked()
