"""The claims: verdicts come from intervals in results, what is missing says so, and every row it names can exist."""

import math
from functools import partial

import pytest

from dbyte import presets
from dbyte.evaluate.stats import verdict
from dbyte.paths import NOTEBOOKS, RESULTS
from dbyte_paper import claims
from dbyte_paper.claims import Claim, Criterion, find, judge, measure
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
    assert found.at["stage 2 costs", "verdict"] == "not shown" and "four" in found.at["stage 2 costs", "asked"]


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
    found = claims.judged(scale=presets.scale("gpu"), folder=tmp_path).set_index("id")
    assert found.at["router is accurate", "verdict"] == "shown"


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


def test_at_small_every_claim_whose_notebook_ran_has_the_verdict_of_its_interval():
    found = claims.judged(scale=presets.scale("small"))
    measured = found[found["verdict"] != claims.UNMEASURED]
    ran = {path.stem for path in NOTEBOOKS.glob("*.py")} & {"01_stage1_curriculum", "16_all_columns",
                                                           "06_decoding_strategies"}
    assert ran <= set(measured["notebook"]) and (RESULTS / "small").is_dir()
    for claim in measured.itertuples():
        assert claim.verdict == verdict(claim.low, claim.high, threshold=claim.threshold, direction=claim.direction)
        assert claim.low <= claim.value <= claim.high and claim.n > 0 and claim.seeds > 0
        assert not math.isnan(claim.minutes), f"{claim.notebook} ran, so its cost is known"
