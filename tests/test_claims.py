"""The claims: verdicts come from intervals in results, what could have told nothing is not judged, and gaps say so."""

import math
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from dbyte import presets
from dbyte.evaluate.stats import verdict
from dbyte.paths import NOTEBOOKS, RESULTS
from dbyte_paper import claims
from dbyte_paper.ablation_runs import ahead_rows
from dbyte_paper.claims import Claim, Criterion, find, judge, measure
from dbyte_paper.fairness import widened
from dbyte_paper.results import read_results, write_results
from dbyte_paper.tables import BENCHMARKS

CLAIM = dict(id="one", where="here", says="it is so", notebook="01_one")


@pytest.fixture
def notebooks(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_one.py").touch()
    return tmp_path / "notebooks"


def write(folder, name, rows, keys, seeds=(0,)):
    write_results(name, rows, scale="smoke", keys=keys, seeds=seeds, config_hash="a", wall_seconds=0.0, folder=folder)


def difference(task, low, high, what="a - b"):
    return {"what": what, "task": task, "value": (low + high) / 2, "stderr": (high - low) / 3.92, "n": 7, "low": low,
            "high": high, "verdict": "not read"}


def of(file, **where):
    return {"file": file, "row": where}


def read(folder):
    return partial(read_results, scale="smoke", folder=folder)


@pytest.mark.parametrize(("low", "high", "direction", "expected"), [
    (-1.0, 3.0, "above", "not shown"), (-3.0, -1.0, "above", "opposite"), (-3.0, -1.0, "below", "shown")])
def test_a_difference_is_judged_by_its_own_interval(tmp_path, notebooks, low, high, direction, expected):
    write(tmp_path, "x_difference", [difference("LMB", low, high)], ["what", "task"], seeds=(3, 4))
    criterion = Criterion(of("x_difference", what="a - b", task="LMB"), direction)
    found = judge(Claim(**CLAIM, criteria=(criterion,)), read(tmp_path), notebooks=notebooks)
    assert found["verdict"] == expected
    assert (found["low"], found["high"], found["n"], found["seeds"]) == (low, high, 7, 2)


def test_a_threshold_may_come_with_the_number(tmp_path, notebooks):
    rows = [difference("LMB", 90, 94) | {"threshold": 95}, difference("PIQA", 96, 98) | {"threshold": 95}]
    write(tmp_path, "x", rows, ["what", "task"])
    for task, expected in (("LMB", "opposite"), ("PIQA", "shown")):
        criterion = Criterion(of("x", task=task), threshold=None)
        found = judge(Claim(**CLAIM, criteria=(criterion,)), read(tmp_path), notebooks=notebooks)
        assert found["verdict"] == expected and found["asked"] == "above 95"


@pytest.mark.parametrize(("lows", "every", "some"), [
    ((1, 1), "shown", "shown"), ((1, -1), "not shown", "shown"), ((-1, -1), "not shown", "not shown"),
    ((1, -9), "opposite", "shown"), ((-1, -9), "opposite", "not shown"), ((-9, -9), "opposite", "opposite")])
def test_all_criteria_must_hold_unless_one_is_enough(tmp_path, notebooks, lows, every, some):
    write(tmp_path, "x", [difference(str(index), low, low + 4) for index, low in enumerate(lows)], ["what", "task"])
    criteria = tuple(Criterion(of("x", task=str(index))) for index in range(2))
    for enough, expected in ((False, every), (True, some)):
        found = judge(Claim(**CLAIM, criteria=criteria, some=enough), read(tmp_path), notebooks=notebooks)
        assert found["verdict"] == expected
        assert verdict(found["low"], found["high"]) == expected, "the number shown is of the criterion that decided"


def test_what_is_missing_is_not_yet_measured_and_says_why(tmp_path, notebooks):
    criteria = (Criterion(of("x", what="a - b", task="MMLU")),)
    claim = Claim(**CLAIM, criteria=criteria)
    unwritten = judge(Claim(**CLAIM | {"notebook": "03_none"}, criteria=criteria), read(tmp_path), notebooks=notebooks)
    assert (unwritten["verdict"], unwritten["why"]) == (claims.UNMEASURED, "notebook 03_none is not written yet")
    assert "01_one has not run" in judge(claim, read(tmp_path), notebooks=notebooks)["why"]
    assert "does not measure it yet" in judge(Claim(**CLAIM), read(tmp_path), notebooks=notebooks)["why"]
    write(tmp_path, "x", [difference("LMB", 0, 1)], ["what", "task"])
    found = judge(claim, read(tmp_path), notebooks=notebooks)
    assert found["verdict"] == claims.UNMEASURED and "no row with what 'a - b', task 'MMLU'" in found["why"]
    with pytest.raises(ValueError, match="2 rows"):
        write(tmp_path, "x", [difference("LMB", 0, 1), difference("LMB", 0, 1, what="a - c")], ["what", "task"])
        find(read(tmp_path)("x"), {"task": "LMB"})
    path = tmp_path / "smoke" / "x.csv"
    path.write_text(path.read_text().replace("a - b", "a - d"))
    with pytest.raises(ValueError, match="edited by hand"):  # an error and no gap
        judge(claim, read(tmp_path), notebooks=notebooks)


def test_sums_and_shares_of_rows_by_hand(tmp_path):
    rows = [{"model": model, "task": "LMB", "train_bytes": size, "value": value, "stderr": stderr, "n": 10}
            for model, size, value, stderr in (("teacher", 0, 80.0, 0.0), ("student", 1, 20.0, 9.0),
                                               ("student", 2, 60.0, 3.0))]
    rows += [{**rows[0], "task": "PIQA", "value": 50.0, "stderr": 4.0}, {**rows[0], "task": "none", "value": 0.0}]
    write(tmp_path, "x", rows, ["model", "task", "train_bytes"])
    frame = read(tmp_path)("x")
    last, first = ({"row": {"model": "student"}, "pick": pick} for pick in ("last", "first"))
    teacher, piqa, none = ({"row": {"model": "teacher", "task": task}} for task in ("LMB", "PIQA", "none"))
    found = measure(Criterion({"total": [last | {"weight": 1.0}, piqa | {"weight": -1.0}]}), frame)
    assert found.value == 10 and found.high - found.value == pytest.approx(1.96 * 5) and found.n == 20
    assert measure(Criterion({"total": [last | {"weight": 1.0}, first | {"weight": -1.0}]}), frame).value == 40
    kept = measure(Criterion({"share": [last, teacher]}), frame)
    with pytest.raises(claims.NotMeasured, match="scores 0"):
        measure(Criterion({"share": [last, none]}), frame)
    assert kept.value == pytest.approx(75) and kept.value - kept.low == pytest.approx(1.96 * 3.75)


def test_averages_of_claims_are_over_the_columns_of_the_paper_alone(tmp_path):
    rows = [{"model": model, "task": task, "value": value, "stderr": 3.0, "n": 5} for model, task, value in
            (("teacher", "LMB", 80.0), ("teacher", "MMLU", 40.0), ("teacher", "SPELL", 99.0),
             ("s", "LMB", 70.0), ("s", "MMLU", 44.0), ("s", "SPELL", 0.0))]
    write(tmp_path, "all", rows, ["model", "task"])
    frame = read(tmp_path)("all")
    kept = measure(Criterion({"kept": "s"}), frame)
    assert kept.value == pytest.approx(95) and kept.n == 10
    with pytest.raises(claims.NotMeasured, match="no row with model 't'"):
        measure(Criterion({"kept": "t"}), frame)
    found = measure(Criterion({"ahead": ["teacher", "s"]}), frame)
    assert found.value == pytest.approx(3) and found.n == 10
    assert found.high - found.value == pytest.approx(1.96 * 3), "3 points of error on each of four numbers, over two"


def test_what_table_1_says_is_asked_of_the_student_of_all_columns_and_of_the_main_one(tmp_path):
    """The one of four columns loses nothing and the one of nine much: the verdict is not that of the four."""
    four = [{"model": model, "task": task, "value": 100.0, "stderr": 0.1, "n": 500}
            for model in ("teacher", "stage1", "stage2") for task in ("LMB", "PIQA", "ARC-E", "GSM8K")]
    nine = [row | {"task": task, "value": 60.0 if row["model"] == "stage2" else 100.0} for row in four[::4]
            for task in BENCHMARKS]
    for name, rows in (("main", four), ("all_columns", nine)):
        write(tmp_path, name, rows, ["model", "task"])
    write(tmp_path, "main_difference", [difference("average", -0.1, 0.1, what) for what in
                                        ("teacher - stage1", "teacher - stage2", "stage1 - stage2")], ["what", "task"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
    for name, value, expected in (("keeps most", 60, "shown"), ("keeps as much as printed", 60, "opposite"),
                                  ("stage 1 drop", 0, "shown"), ("stage 2 drop", 40, "opposite")):
        assert found.at[name, "value"] == pytest.approx(value) and found.at[name, "verdict"] == expected, name
        assert found.at[name, "asked"].startswith("nine columns, ")
    assert found.at["stage 2 costs", "verdict"] == "equal" and "four" in found.at["stage 2 costs", "asked"]


def test_every_claim_is_there_once_in_words_that_stand_alone():
    ledger = claims.every_claim(presets.scale("small"))
    assert 30 <= len(ledger) and len({claim.id for claim in ledger}) == len(ledger)
    places = " ".join(claim.where for claim in ledger)
    assert all(place in places for place in (
        "Abstract", "5.2.1", "5.2.2", "5.3", "6.1", "6.2", "6.3", "A.1", "A.2", "A.3", "Appendix B", "Appendix C",
        "Appendix D", *(f"Table {number}" for number in range(1, 12)), "Figure 2", "Figure 3"))
    numbers = {path.stem[:2] for path in NOTEBOOKS.glob("[0-9][0-9]_*.py")}
    for claim in ledger:
        words = claim.says.split()  # the figure shows them away from the claim before
        assert len(words) >= 5 and words[0] not in {"it", "and", "that", "this", "they"}, claim.says
        # a claim whose notebook exists under another name would stay unmeasured for ever
        assert claim.notebook[:2] not in numbers or (NOTEBOOKS / f"{claim.notebook}.py").exists(), claim.notebook


def test_boundaries_are_counted_on_the_corpora_of_the_scale(tmp_path):
    rows = [{"corpus": name, "value": 99.0, "stderr": 0.1, "n": 9} for name, _ in presets.scale("gpu").corpora]
    write_results("boundaries_stage1", rows, scale="gpu", keys=["corpus"], seeds=[0], config_hash="x", wall_seconds=0,
                  folder=tmp_path)
    alone = replace(presets.scale("gpu"), stage1=presets.scale("gpu").stage1 | {"boundary_loss": False})
    found = claims.judged(scale=alone, folder=tmp_path).set_index("id")
    assert found.at["router is accurate", "verdict"] == "shown"
    found = claims.judged(scale=presets.scale("gpu"), folder=tmp_path).set_index("id")
    assert found.at["router is accurate", "verdict"] == claims.UNINFORMATIVE
    assert found.at["router is accurate", "why"].endswith("boundary_loss = True")


@pytest.mark.parametrize(("message", "change"), [
    ("has no abve", {"abve": 0.0}), ("`above` or `below`", {"above": None}), ("`above` or `below`", {"below": 1.0}),
    ("one of row", {"row": None}), ("one of row", {"kept": "stage2"}), ("needs a `file`", {"file": None})])
def test_an_entry_that_is_no_claim_is_refused_by_its_id(message, change):
    criterion = {"file": "x", "row": {"task": "LMB"}, "above": 0.0} | change
    entry = CLAIM | {"criteria": [{key: value for key, value in criterion.items() if value is not None}]}
    with pytest.raises(ValueError, match=f"claim 'one' in claims.toml.*{message}"):
        claims.read_claim(entry, ["world"])


def test_an_entry_with_an_unknown_field_or_table_is_refused():
    for change in ({"notebok": "01"}, {"paper": {"table": "table1", "line": "x"}}, {"paper": {"quoted": "nothing"}}):
        with pytest.raises(ValueError, match="claim 'one' in claims.toml"):
            claims.read_claim(CLAIM | change, [])


def test_nothing_measured_gives_a_whole_table_of_gaps(tmp_path):
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path)
    assert set(found["verdict"]) == {claims.UNMEASURED} and (found["why"] != "").all()
    assert found["value"].isna().all() and len(claims.shown(found)) == len(claims.every_claim(presets.scale("smoke")))


# -- what could have told nothing -------------------------------------------------------------------------------------


def judged_with(tmp_path, notebooks, criterion, rows, **more):
    write(tmp_path, "x", rows, ["model", "task"])
    claim = claims.read_claim(CLAIM | {"criteria": [criterion]}, ["world"])
    return judge(replace(claim, **more), read(tmp_path), notebooks=notebooks)


def arm(model, value, stderr=1.0, **more):
    return {"model": model, "task": "average", "value": value, "stderr": stderr, "n": 100, "chance": 25.0} | more


@pytest.mark.parametrize(("one", "other", "top", "said"), [
    (98.1, 99.0, None, "ceiling of 100.0: 98.1 and 99.0"), (97.9, 99.0, None, ""), (26.9, 23.0, None, "chance"),
    (27.1, 23.0, None, ""), (60.0, 61.0, 61.5, "ceiling of 61.5"), (59.0, 61.0, 61.5, "")])
def test_sides_at_a_ceiling_or_at_chance_are_not_judged(tmp_path, notebooks, one, other, top, said):
    terms = [{"row": {"model": name}} for name in "ab"]
    sides = {"file": "x", "models": ["a", "b"]} | ({"top": "t"} if top else {})
    rows = [arm("a", one), arm("b", other), *([arm("t", top)] if top else [])]
    criterion = {"file": "x", "above": 0.0, "sides": sides,
                 "total": [terms[0] | {"weight": 1.0}, terms[1] | {"weight": -1.0}]}
    found = judged_with(tmp_path, notebooks, criterion, rows)
    assert (found["verdict"] == claims.UNINFORMATIVE) == bool(said) and said in found["why"]
    assert found["value"] == pytest.approx(one - other), "the number is shown all the same"


def test_a_criterion_at_its_ceiling_leaves_the_verdict_to_the_others(tmp_path, notebooks):
    write(tmp_path, "x", [arm("a", 100.0, task="PIQA"), arm("b", 99.5, task="PIQA")], ["model", "task"])
    write(tmp_path, "y", [difference("LMB", -9, -5), difference("PIQA", 0.1, 0.2)], ["what", "task"])
    sides = {"file": "x", "models": ["a", "b"]}
    entries = [of("y", task="LMB") | {"below": 0.0}, of("y", task="PIQA") | {"below": 0.0, "sides": sides}]
    both = judge(claims.read_claim(CLAIM | {"criteria": entries}, []), read(tmp_path), notebooks=notebooks)
    assert (both["verdict"], both["value"]) == ("shown", -7), "PIQA alone would say the opposite"
    alone = judge(claims.read_claim(CLAIM | {"criteria": entries[1:]}, []), read(tmp_path), notebooks=notebooks)
    assert alone["verdict"] == claims.UNINFORMATIVE


@pytest.mark.parametrize(("one", "other", "said"), [
    ({}, {}, "does not record train_bytes and sweep"),
    ({"train_bytes": 5, "sweep": "1 3"}, {"train_bytes": 6, "sweep": "1 3"}, "one train_bytes: 5, 6"),
    ({"train_bytes": 5, "sweep": "1 3"}, {"train_bytes": 5, "sweep": ""}, "one sweep"),
    ({"train_bytes": 5, "sweep": ""}, {"train_bytes": 5, "sweep": ""}, "one sweep"),
    ({"train_bytes": 5, "sweep": "1 3"}, {"train_bytes": 5, "sweep": "1 3"}, "")])
def test_arms_that_did_not_get_the_same_are_not_judged(tmp_path, notebooks, one, other, said):
    alike = {"file": "x", "models": ["a", "b"]}
    found = judged_with(tmp_path, notebooks, {"file": "x", "row": {"model": "a"}, "above": 0.0},
                        [arm("a", 50.0, **one), arm("b", 40.0, **other)], alike=alike)
    assert found["verdict"] == (claims.UNINFORMATIVE if said else "shown") and said in found["why"]


@pytest.mark.parametrize(("sizes", "said"), [
    ((100, 99), ""), ((100, 97), "one parameters: 100, 97"), ((100, math.nan), "one parameters"),
    ((None, None), "does not record parameters")])
def test_what_need_only_be_near_may_be_apart_by_little(tmp_path, notebooks, sizes, said):
    arms = {"train_bytes": 5, "sweep": "1 3"}
    rows = [arm(name, value, **arms, **({} if size is None else {"parameters": size}))
            for name, value, size in zip("ab", (50.0, 40.0), sizes, strict=True)]
    found = judged_with(tmp_path, notebooks, {"file": "x", "row": {"model": "a"}, "above": 0.0}, rows,
                        alike={"file": "x", "models": ["a", "b"], "near": ["parameters"]})
    assert found["verdict"] == (claims.UNINFORMATIVE if said else "shown") and said in found["why"]


def routed(*, ideal=95.0, gained=1.0, parameters=(300, 301), split=80.0, beside=(90.0, 80.0)):
    """Rows of Table 9 as notebook 09 records them."""
    arms = {"train_bytes": 5, "sweep": "1 3", "gained": gained}
    names = ("integrated", "split", "integrated, Eq. 4", "split, Eq. 4")
    rows = [arm(name, value, **arms, parameters=count) for name, value, count in
            zip(names, (70.0, split, *beside), 2 * parameters, strict=True)]
    return rows + [arm(f"{name}, teacher's boundaries", ideal) for name in names[::2]]


@pytest.mark.parametrize(("rows", "said"), [
    (routed(), ""), (routed(gained=2.5), "router was still learning"), (routed(gained=math.nan), "still learning"),
    (routed(ideal=79.0), "has not learnt"), (routed(parameters=(393, 247)), "one parameters"),
    (routed(ideal=80.5, split=79.0, beside=(79.0, 80.0)), "")])
def test_table_9_is_judged_where_its_routers_and_their_encoder_have_learnt(tmp_path, rows, said):
    write(tmp_path, "router", rows, ["model", "task"])
    for name, end, low in (("router_difference", "", -12), ("router_beside_difference", ", Eq. 4", 8)):
        what = f"integrated{end} - split{end}"
        write(tmp_path, name, [difference("average", low, low + 4, what)], ["what", "task"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id").loc["integrated router"]
    assert found["verdict"] == (claims.UNINFORMATIVE if said else "opposite") and said in found["why"]
    assert found["asked"] == "step 1.3 alone, above 0"


def test_routers_that_cost_nothing_tell_nothing(tmp_path):
    rows = [row | {"value": 94.0} for row in routed()]
    write(tmp_path, "router", rows, ["model", "task"])
    write(tmp_path, "router_difference", [difference("average", -1, 3, "integrated - split")], ["what", "task"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id").loc["integrated router"]
    assert found["verdict"] == claims.UNINFORMATIVE and "ceiling of 94.0" in found["why"]


def test_encoders_are_judged_at_the_largest_dose_and_at_equal_loss(tmp_path):
    arms = {"train_bytes": 5, "sweep": "1 3", "parameters": 300}
    ratio = {"what": "Transformer / Mamba2", "value": 3.0, "stderr": 0.5, "n": 3, "low": 2.0, "high": 4.5}
    write(tmp_path, "encoder_ratio", [ratio | {"seeds": 3}], ["what"])
    write(tmp_path, "encoder_last_difference", [difference("average", 9, 15, "Mamba2 - Transformer")], ["what", "task"])
    for learnt, expected in ((90.0, "shown"), (79.0, claims.UNINFORMATIVE)):
        write(tmp_path, "encoder_last", [arm("Mamba2", learnt, **arms), arm("Transformer", 60.0, **arms)],
              ["model", "task"])
        found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
        assert set(found.loc[["Mamba2", "Mamba2 at equal loss"], "verdict"]) == {expected}


def test_the_sequence_is_held_against_the_best_weights_by_files_of_its_own(tmp_path):
    """And not by the older file of the dose response, whose joint objective has one choice of weights."""
    arms = {"train_bytes": 5, "sweep": "1 3"}
    for name, other, ahead in (("order", "best joint", -9), ("dose_last", "joint, weights 1 1 1", 5)):
        write(tmp_path, name, [arm("1.1, 1.2, 1.3", 50.0, **arms, gained=1.0), arm(other, 45.0, **arms, gained=9.0)],
              ["model", "task"])
        write(tmp_path, f"{name}_difference", [difference("average", ahead, ahead + 4, f"1.1, 1.2, 1.3 - {other}")],
              ["what", "task"])
    write(tmp_path, "order_encoder", [arm("1.1, 1.2, 1.3", 81.0, **arms)], ["model", "task"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
    assert list(found.loc[["sequence", "sequence spares tuning"], "verdict"]) == ["shown", "opposite"]
    write(tmp_path, "order_encoder", [arm("1.1, 1.2, 1.3", 79.0, **arms)], ["model", "task"])
    write(tmp_path, "dose_last", [arm("1.1, 1.2, 1.3", 50.0, **arms, gained=3.0),
                                  arm("joint, weights 1 1 1", 45.0, **arms, gained=0.0)], ["model", "task"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
    for claim, why in (("sequence", "no plateau"), ("sequence spares tuning", "has not learnt")):
        assert found.loc[claim, "verdict"] == claims.UNINFORMATIVE and why in found.loc[claim, "why"]


def test_arms_whose_rows_have_a_kind_of_noise_are_compared_on_the_one_that_is_named(tmp_path, notebooks):
    rows = [arm(model, value, kind=kind, train_bytes=size, sweep="1 3")
            for model, value, size in (("a", 50.0, 5), ("b", 40.0, 6)) for kind in ("clean", "drop")]
    write(tmp_path, "x", rows, ["model", "task", "kind"])
    entry = of("x", model="a", kind="drop") | {"above": 0.0}
    alike = {"file": "x", "models": ["a", "b"], "kind": "clean"}
    one, other = (judge(claims.read_claim(CLAIM | {"criteria": [entry], "alike": each}, []), read(tmp_path),
                        notebooks=notebooks) for each in (alike, alike | {"models": ["a", "a"]}))
    assert one["verdict"] == claims.UNINFORMATIVE and "one train_bytes: 5, 6" in one["why"]
    assert other["verdict"] == "shown"


@pytest.mark.parametrize(("gain", "expected"), [
    (5.1, "shown"), (4.9, claims.UNINFORMATIVE), (None, claims.UNINFORMATIVE)])
def test_a_treatment_that_did_not_do_what_it_is_for_is_not_judged(tmp_path, notebooks, gain, expected):
    rows = [arm("a", 50.0), *([arm("gain", gain)] if gain else [])]
    fair = (Criterion(of("x", model="gain"), threshold=5.0, part="it gained too little"),)
    found = judged_with(tmp_path, notebooks, {"file": "x", "row": {"model": "a"}, "above": 0.0}, rows, fair=fair)
    assert found["verdict"] == expected
    assert found["why"].startswith("it gained too little: " if expected == claims.UNINFORMATIVE else "")


@pytest.mark.parametrize(("falling", "expected"), [
    ((math.nan, 20.0, 4.9), "shown"), ((math.nan, 4.9, 5.1), claims.UNINFORMATIVE),
    ((math.nan,), claims.UNINFORMATIVE)])
def test_mbp_must_have_stopped_gaining_before_its_decoder_is_judged(tmp_path, falling, expected):
    arms = {"train_bytes": 5, "sweep": "1 3"}
    write(tmp_path, "decoding", [arm(name, value, task=task, **arms) for task in ("average", "GSM8K")
                                 for name, value in (("JBP", 70.0), ("MBP", 50.0))], ["model", "task"])
    write(tmp_path, "decoding_difference", [difference("GSM8K", 18, 22, "GSM8K")], ["what"])
    write(tmp_path, "decoding_rounds", [
        {"model": "MBP", "round": number, "value": 1.0, "stderr": 0.1, "n": 9, "train_bytes": 1000 * number,
         "falling": fell} for number, fell in enumerate(falling, start=1)], ["model", "round"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id").loc["JBP on GSM8K"]
    assert found["verdict"] == expected and ("MBP has not learnt all it can" in found["why"]) == (expected != "shown")


@pytest.mark.parametrize(("better", "behind", "said"), [
    (2.1, 19.0, ""), (1.9, 19.0, "hardly the better one"), (2.1, 21.0, "learnt too little")])
def test_a_larger_teacher_must_be_the_better_one_and_its_student_taught(tmp_path, better, behind, said):
    arms = {"train_bytes": 5, "sweep": "1 3"}
    write(tmp_path, "teacher_scale", [arm(name, 50.0, **arms) for name in ("own size", "larger")], ["model", "task"])
    rows = [difference("", value - 1, value + 1, what) for what, value in (
        ("larger - own size", 4), ("teachers, own size - larger", better), ("own size - its teacher", behind))]
    write(tmp_path, "teacher_scale_more_bits", [row | {"corpus": "pydocs"} for row in rows], ["what", "corpus"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id").loc["larger teacher"]
    assert found["verdict"] == (claims.UNINFORMATIVE if said else "shown") and said in found["why"]


BLD_CLAIMS = ["BLD next to ALM", "BLD ahead of ALM somewhere", "BPE to BPE nearly recovers", "bytes lose most",
              "no method dominates"]


@pytest.mark.parametrize(("changed", "value", "uninformative"), [
    ({}, 50.0, set()),
    ({"train_bytes": 6}, 50.0, {*BLD_CLAIMS} - {"BPE to BPE nearly recovers"}),
    ({"sweep": "1"}, 50.0, {*BLD_CLAIMS} - {"BPE to BPE nearly recovers"}),
    ({"sweep": ""}, 50.0, {*BLD_CLAIMS}), (None, 50.0, {*BLD_CLAIMS}),
    ({}, 99.0, {*BLD_CLAIMS} - {"BPE to BPE nearly recovers"})])
def test_claims_of_the_second_paper_want_equal_bytes_and_rates_of_one_sweep(tmp_path, changed, value, uninformative):
    """An arm to another BPE differs, or none records what it got; two arms at their ceiling say nothing either."""
    pairs, arms = ("to another BPE", "to bytes"), ("BLD", "ALM", "ALM + SFT", "SFT", "SFT, MinED embeddings", "GOLD")
    tasks = ("average", "PIQA", "LMB", "ARC-E", "GSM8K")
    got = {} if changed is None else {"train_bytes": 5, "sweep": "1/3 1 3"}
    write(tmp_path, "interface", [
        arm(f"{name}, {pair}", value, task=task, **got | (changed or {} if (name, pair) == ("BLD", pairs[0]) else {}))
        for pair in pairs for name in arms for task in tasks], ["model", "task"])
    whats = [f"BLD, {pair} - {name}, {pair}" for pair in pairs for name in arms[1:]]
    write(tmp_path, "interface_difference", [
        difference(task, -1.5, 1.5, what) for what in [*whats, f"BLD, {pairs[0]} - BLD, {pairs[1]}"]
        for task in tasks], ["what", "task"])
    write(tmp_path, "interface_teacher", [arm("teacher", 99.0)], ["model", "task"])
    write(tmp_path, "interface_kept", [difference("average", 96, 98) | {"model": f"BLD, {pairs[0]}"}], ["model"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id").loc[BLD_CLAIMS]
    assert set(found.index[found["verdict"] == claims.UNINFORMATIVE]) == uninformative, found["why"]
    assert (found["verdict"] != claims.UNMEASURED).all() and (found.loc[sorted(uninformative), "why"] != "").all()


def test_a_teacher_at_chance_has_nothing_to_recover_and_a_student_there_has_not_recovered_it(tmp_path):
    got = {"train_bytes": 5, "sweep": "1/3 1 3"}
    write(tmp_path, "interface", [arm("BLD, to another BPE", 25.0, **got)], ["model", "task"])
    write(tmp_path, "interface_kept", [difference("average", 40, 44) | {"model": "BLD, to another BPE"}], ["model"])
    for level, expected in ((60.0, "opposite"), (25.0, claims.UNINFORMATIVE)):
        write(tmp_path, "interface_teacher", [arm("teacher", level)], ["model", "task"])
        found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
        assert found.at["BPE to BPE nearly recovers", "verdict"] == expected


def test_a_student_of_another_scale_is_one_more_that_must_agree(tmp_path, notebooks):
    criteria = [of("x") | {"above": 0.0}, of("y") | {"above": 0.0, "scale": "real", "optional": True}]
    claim = claims.read_claim(CLAIM | {"criteria": criteria}, [])
    write(tmp_path, "x", [difference("LMB", 1, 2)], ["what", "task"])
    assert judge(claim, read(tmp_path), notebooks=notebooks)["verdict"] == "shown", "it has no results yet"
    write_results("y", [difference("LMB", -3, -1)], scale="real", keys=["what"], seeds=[0], config_hash="a",
                  wall_seconds=0.0, folder=tmp_path)
    assert judge(claim, read(tmp_path), notebooks=notebooks)["verdict"] == "opposite"


def test_arms_at_their_ceiling_are_seen_on_the_task_that_the_criterion_asks(tmp_path, notebooks):
    arms = {"train_bytes": 5, "sweep": "1 3"}
    rows = [arm(name, value, task=task, **arms) for task, values in (("average", (50, 40)), ("LMB", (100, 99)))
            for name, value in zip("ab", values, strict=True)]
    for task, expected in (("average", "shown"), ("LMB", claims.UNINFORMATIVE)):
        found = judged_with(tmp_path, notebooks, {"file": "x", "row": {"model": "a", "task": task}, "above": 0.0}, rows,
                            alike={"file": "x", "models": ["a", "b"]})
        assert found["verdict"] == expected


def test_every_student_of_table_1_is_one_more_criterion_and_the_papers_own_recipe_is_among_them():
    ledger = {claim.id: claim for claim in claims.every_claim(presets.scale("small"))}
    for name in ("keeps most", "keeps as much as printed", "stage 1 drop", "stage 2 drop", "stage 2 costs"):
        parts = [one.part for one in ledger[name].criteria]
        assert sorted(parts) == ["four columns,", "nine columns,", "real teacher,", "the paper's recipe,"], name
        assert len({(one.direction, one.threshold) for one in ledger[name].criteria}) == 1
    real, recipe = (one.entry for one in ledger["stage 1 drop"].criteria if one.entry.get("optional"))
    assert (real["scale"], real["ahead"]) == ("real", ["teacher", "Stage 1, router's"])
    assert recipe["ahead"] == ["teacher", "as in the paper, stage1"]


@pytest.mark.parametrize(("verdicts", "expected"), [
    (["shown"] * 7 + ["opposite"], "shown"), (["shown"] * 6 + ["opposite"] * 2, "opposite"),
    (["shown"] * 6 + ["not shown", "equal"], "not shown"), (["opposite"] * 8, "opposite")])
def test_nearly_every_column_is_all_but_one_and_asked_of_each_control_by_itself(tmp_path, verdicts, expected):
    whats = ["+ on-policy - Stage 1", "+ on-policy - + step 1.2 on the corpus", "+ on-policy - + teacher-written"]
    rows = [{"what": what, "task": task, "value": -1.0 if one == "opposite" else 1.0, "seeds": 3, "verdict": one}
            for what in whats for task, one in zip([*BENCHMARKS[:8], "average"], [*verdicts, "shown"], strict=True)]
    ahead = ahead_rows(pd.DataFrame(rows), all_but=1)
    assert [row["what"] for row in ahead] == whats and {row["n"] for row in ahead} == {8}
    assert ahead[0]["value"] == 100 * (8 - verdicts.count("opposite")) / 8
    write(tmp_path, "on_policy_ahead", ahead, ["what"])
    write(tmp_path, "on_policy_gap", [difference("average", 6, 9, "teacher - Stage 1")], ["what", "task"])
    controls = ["on-policy, not more training", "on-policy, not the prompts"]
    for given, of_controls in (({}, claims.UNINFORMATIVE), ({"train_bytes": 5, "sweep": "1 3"}, expected)):
        arms = [arm(name, 50.0, **given) for name in ("+ on-policy", "+ step 1.2 on the corpus", "+ teacher-written")]
        write(tmp_path, "on_policy", arms, ["model", "task"])
        found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
        assert found.at["on-policy", "verdict"] == expected and found.at["on-policy", "paper"] == 87.5
        assert set(found.loc[controls, "verdict"]) == {of_controls}, "not judged without a word on their rates"
    write(tmp_path, "on_policy_gap", [difference("average", 2, 6, "teacher - Stage 1")], ["what", "task"])
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
    for name in ("on-policy", *controls):
        assert found.at[name, "verdict"] == claims.UNINFORMATIVE and "hardly a gap" in found.at[name, "why"]


def test_a_file_that_was_measured_again_fairly_is_read_in_place_of_the_older(tmp_path):
    arms = {"train_bytes": 5, "sweep": "1 3"}
    for name, what, value in (("alignment", {}, 50.0), ("rates", arms, 40.0)):
        write(tmp_path, name, [arm("align, then distil", value, **what), arm("distil only", 30.0, **what)],
              ["model", "task"])
        ahead = difference("average", value - 31, value - 29, "align, then distil - distil only")
        write(tmp_path, f"{name}_difference", [ahead], ["what", "task"])
        found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id").loc["alignment"]
        assert (found["value"], found["file"]) == (value - 30, f"{name}_difference")
        assert found["verdict"] == ("shown" if what else claims.UNINFORMATIVE)


def test_results_older_than_clusters_are_widened_and_none_has_no_width(tmp_path):
    rows = [difference("ARC-E", 1, 3) | {"n": 128}, difference("LMB", 0, 0) | {"n": 100},
            difference("average", 1, 3) | {"n": 228}]
    write(tmp_path, "old", rows, ["what", "task"])
    old = widened(read(tmp_path)("old")).set_index("task")
    assert tuple(old.loc["ARC-E", ["low", "high"]]) == pytest.approx((2 - 2**0.5, 2 + 2**0.5)), "two items a fact"
    assert tuple(old.loc["LMB", ["low", "high"]]) == pytest.approx((-3.7, 3.7), abs=0.01), "none of a hundred"
    assert old.at["average", "high"] == pytest.approx(2 + 1.5**0.5), "the columns' mean"
    write(tmp_path, "new", [row | {"clusters": 64} for row in rows], ["what", "task"])
    new = widened(read(tmp_path)("new")).set_index("task")
    assert (new.at["ARC-E", "low"], new.at["ARC-E", "high"]) == (1, 3)
    write(tmp_path, "share", [arm("a", 100.0, 0.0, task="LMB")], ["model", "task"])
    assert widened(read(tmp_path)("share"))["stderr"][0] == pytest.approx(3.7 / 1.96, abs=0.01)


def test_primary_claims_are_tested_together(tmp_path, monkeypatch):
    """Eight intervals that each just decide: together they do not, and a far one still does."""
    places = [f"claim {k}" for k in range(8)]
    rows = [difference(name, 0.2, 4.2) for name in places[:-1]] + [difference(places[-1], 9, 11)]
    write(tmp_path, "x", rows, ["what", "task"])
    ledger = tuple(claims.read_claim(CLAIM | {
        "id": name, "primary": name != places[0], "notebook": "99_claims",
        "criteria": [of("x", task=name) | {"above": 0.0}]}, []) for name in places)
    monkeypatch.setattr(claims, "every_claim", lambda scale: ledger)
    found = claims.judged(scale=presets.scale("smoke"), folder=tmp_path).set_index("id")
    assert list(found["verdict"]) == ["shown", *["not shown"] * 6, "shown"], "the first is exploratory"
    assert math.isnan(found.at[places[0], "p"]) and found.at[places[1], "p"] > 0.05 > found.at[places[-1], "p"]


# Claims whose verdicts rested on a confound, a floor or ceiling, or a step that is not the paper's.
CONFOUNDED = {
    "alignment", "alignment LMB", "sequence", "integrated router", "larger teacher accuracy",
    "resists spaced letters", "resists lost letters", "stage 2 is fragile", "learnt boundaries cost", "trim data",
    "penalty is invariant", "penalty costs", "tuned on noise", "learns spaced letters", "keeps clean text",
    "reasoning needs 1.2", "more than the simple", "MBP elsewhere", "more than elsewhere", "JBP on GSM8K", "Mamba2",
    "families", "alignment is rapid", "router is accurate", "larger teacher LMB", "integrated router LMB"}


def test_at_small_what_rests_on_a_confound_is_not_judged_by_what_an_older_notebook_left():
    """A comparison has a verdict where its file records what each arm got, and every precondition holds."""
    found = claims.judged(scale=presets.scale("small")).set_index("id")
    asked = {claim.id: claim for claim in claims.every_claim(presets.scale("small"))}
    not_judged = found["verdict"] == claims.UNINFORMATIVE
    assert (found.loc[not_judged, "why"] != "").all() and found["primary"].sum() == 8
    for name in CONFOUNDED & set(found.index[~not_judged & (found["verdict"] != claims.UNMEASURED)]):
        claim = asked[name]
        sides = any("sides" in one.entry for one in claim.criteria)
        assert claim.fair or claim.alike or claim.recipe or sides, f"{name} has no rule that could refuse it"
        if claim.alike:
            rows = read_results(claim.alike["file"], scale="small")
            assert {"train_bytes", "sweep", "clusters"} <= set(rows), f"{name} is judged by {claim.alike['file']}"
    assert set(found.loc[["space bias", "boundaries everywhere"], "verdict"]) == {"equal"}, "the tokenizer does it too"


def test_at_small_every_claim_whose_notebook_ran_has_the_verdict_of_its_interval():
    found = claims.judged(scale=presets.scale("small"))
    measured = found[found["verdict"] != claims.UNMEASURED]
    ran = {path.stem for path in NOTEBOOKS.glob("*.py")} & {"01_stage1_curriculum", "16_all_columns",
                                                           "06_decoding_strategies"}
    assert ran <= set(measured["notebook"]) and (RESULTS / "small").is_dir()
    for claim in measured.itertuples():
        of_interval = verdict(claim.low, claim.high, threshold=claim.threshold, direction=claim.direction)
        assert claim.verdict == of_interval or claim.why, "not judged, or beaten by Holm, and it says so"
        assert claim.low < claim.value < claim.high and claim.n > 0 and claim.seeds > 0
        assert not math.isnan(claim.minutes), f"{claim.notebook} ran, so its cost is known"
