"""The audit of the paper's arithmetic: what rounding allows by hand, every known slip, no rule in vain."""

import math
from statistics import fmean

import pytest

from dbyte_paper import audit
from dbyte_paper.published import entries, quoted


@pytest.fixture(scope="module")
def found():
    return audit.audit()


def row(found, where, what):
    (one,) = found[(found["where"] == where) & (found["what"] == what)].to_dict("records")
    return one


@pytest.mark.parametrize(("printed", "half"), [("9.8", 0.05), ("9.80", 0.005), ("30B", 0.5), ("0", 0.5)])
def test_the_printed_decimals_say_how_much_rounding_hides(printed, half):
    assert audit.half_unit(printed) == pytest.approx(half)


@pytest.mark.parametrize(("printed", "verdict"), [
    ("1.5", "agrees"),   # exactly the mean
    ("1.6", "agrees"),   # (1.0 + 2.0) / 2 may be 1.55, which may be printed 1.6
    ("1.61", "slip"),    # 1.55 may not be printed 1.61
    ("1.55", "agrees"), ("1.4", "agrees"), ("1.3", "slip")])
def test_a_mean_may_be_off_by_its_own_half_unit_and_that_of_its_terms(printed, verdict):
    assert audit.check("here", "a mean", printed, ("1.0", "2.0"), fmean)["verdict"] == verdict


def test_the_slack_of_eq_5_is_what_half_a_unit_changes():
    """By hand: 100 * (50 - 25) / (75 - 25) = 50; 0.005 on the noisy one is 0.01, on the clean one 0.005."""
    found = audit.check("here", "Eq. 5", "50.00", ("75.00", "50.00"), lambda averages:
                        audit.robustness_score(averages[0] / 100, averages[1] / 100))
    assert found["recomputed"] == pytest.approx(50)
    assert found["tolerance"] == pytest.approx(0.005 + 0.01 + 0.005, rel=1e-3)


@pytest.mark.parametrize(("one", "other", "verdict"), [
    ("73.8", "73.76", "agrees"), ("73.7", "73.76", "slip"), ("73.7", "73.8", "slip"), ("58.65", "58.7", "agrees")])
def test_of_two_prints_the_coarser_must_be_the_rounding_of_the_finer(one, other, verdict):
    assert audit.copy("here", "a copy", one, other)["verdict"] == verdict
    assert audit.copy("here", "a copy", other, one)["verdict"] == verdict


@pytest.mark.parametrize(("relation", "source", "verdict"), [
    ("<", "4.9", "agrees"), ("<", "5.2", "slip"), (">", "5.2", "agrees"), (">", "4.9", "slip")])
def test_a_bound_is_one_sided(relation, source, verdict):
    assert audit.check("here", "a bound", "5", (source,), sum, relation)["verdict"] == verdict


@pytest.mark.parametrize(("where", "what", "printed", "by_hand"), [
    ("Table 1", "average drop, H-Net Distill, Llama-3.2-3B, student", "9.85",
     (6.7 + 3.5 + 0.7 + 2.4 + 2.7 + 0 + 0 + 4.2) / 8),
    ("Table 7", "robustness score by Eq. 5, space penalty", "53.66", 100 * 19.05 / 33.50),
    ("Table 6", "noise average, llama-3.2-3b/stage2", "51.40", (38.05 + 48.71 + 49.61 + 43.17 + 62.93) / 5),
    ("Table 8", "Delta, origin/distill", "18.26", 73.50 - 55.30),
    ("Tables 1 and 9", "LMB, Stage 1 of Llama 3.2 3B", "69.5", 58.7),
    ("Tables 6 and 7", "Drop, teacher Llama 3.2 3B", "52.03", 52.94),
    ("Tables 1 and 4", "MMLU, Stage 2 of Qwen3 4B", "68.5", 68.4),
    ("Section 5.2.2", "average drop of Llama, Stage 2, minus H-Net Distill's, both from their rows", "< 0",
     2.80 - 2.525),
    ("Appendix C", "average over eight columns, Qwen3-4B: teacher of its own size minus the larger one", "> 0",
     (2.6 + 1.6 - 0.1 - 1.9 - 3.9 + 1.2 + 0.0 - 5.5) / 8),
    ("Table 12, head", "billions in the name of the student of Llama 3.2 3B; in its teacher's", "4B", 3),
    ("Table 12, head", "billions in the name of the student of Qwen 3 4B; in its teacher's", "3B", 4),
    ("Table 10, head", "columns that are named, GSM8K the last; numbers of a row, MMLU the last", "9", 8),
    ("Table 13 and section 6.1", "peak rate of the encoder in step 1.2", "2e-5", 1e-3),
    ("Section 5.2.1", "MMLU of Qwen3 4B, after all of Stage 1 (Table 1) minus after step 1.1 alone (Table 5)", "> 0",
     66.8 - 70.2),
    ("Section 5.2.1",
     "average of Qwen3 4B over eight columns, after all of Stage 1 (Table 1) minus after step 1.1 alone (Table 5)",
     "> 0", (0.6 - 1.0 - 1.2 - 0.3 + 0.5 - 0.5 + 0.2 - 3.4) / 8),
    ("Section 4.1.2", "symbols in the two ranges of JBP, [0, 256] and [256, 512)", "512", 513),
])
def test_slips_that_were_worked_out_by_hand(found, where, what, printed, by_hand):
    one = row(found, where, what)
    assert one["printed"] == printed and one["verdict"] == "slip"
    assert one["recomputed"] == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize(("where", "what", "by_hand"), [
    ("Table 1", "average drop, Ours, Llama-3.2-3B, stage2", (0.8 + 2.5 + 3.1 + 5.1 + 4.1 + 0.6 + 2.0 + 4.2) / 8),
    ("Table 1", "average drop, BLT Distill, Llama-2-7B, student", (4.6 + 3.3 + 16.8 + 9.4 + 2.6) / 5),
    ("Section 5.2.1", "average drop, BLT Distill", (4.6 + 3.3 + 16.8 + 9.4 + 2.6) / 5),
    ("Table 8", "Delta, origin/token", 73.76 - 54.10),
    ("Section 5.2.1", "H-Net Distill's bytes over those of Stage 1", 189 / 30),
    ("Section 6.2", "MBP - JBP on MMLU, points", 0.8),
    ("Section 1", "share of the teacher's MMLU that the Llama student keeps, percent", 100 * 51.8 / 56.0),
    ("Table 11", "average, BLT 1B", (59.9 + 40.6 + 69.2 + 71.0 + 67.0 + 54.6 + 77.3) / 7),
])
def test_numbers_that_agree_by_hand(found, where, what, by_hand):
    one = row(found, where, what)
    assert one["verdict"] == "agrees" and one["recomputed"] == pytest.approx(by_hand, abs=1e-9)


def test_only_what_has_no_source_cannot_be_derived(found):
    without = found[found["verdict"] == "not derivable"]
    assert set(without["where"]) == {"Section 5.1", "Section 5.2.1", "Section 6.2", "Appendix D"}
    assert without["what"].str.startswith("GSM8K").sum() == 1, "its teacher's stands nowhere"
    assert all(math.isnan(number) for number in without["recomputed"])
    assert set(found["verdict"]) == set(audit.VERDICTS)


def test_every_rule_belongs_to_a_quoted_number():
    rows = quoted().set_index("id")
    assert rows.index.is_unique
    # KeyError: a rule whose number is not quoted is never looked at
    ruled = rows.loc[[entry["id"] for entry in entries("audit", "rule")]]
    assert not ruled["table"].any(), "a number with two sources would be held to the first only"


def test_what_is_printed_twice_is_one_row_a_quantity(found):
    assert not found.duplicated(["where", "what"]).any()
    table = audit.counts(found).set_index("where")
    assert table.to_numpy().sum() == len(found)
    assert table.at["printed in two places", "slip"] >= 20


def test_another_checkpoint_under_the_same_label_is_no_slip(found):
    rows = found[found["what"].str.contains("ALM's row")]
    assert len(rows) == 3 and set(rows["verdict"]) == {"another model"} and set(rows["cause"]) == {""}


def test_every_slip_has_one_cause_and_every_cause_a_slip(found):
    slips = found[found["verdict"] == "slip"]
    table = audit.causes(found)
    assert (slips["cause"] != "").all() and table["numbers"].sum() == len(slips) > 2 * len(table)
    assert table["cause"].is_unique and table["numbers"].min() > 0 and 13 <= len(table) <= 17
    for entry in entries("audit", "cause"):
        for where, what in entry["slips"]:
            assert ((slips["where"] == where) & slips["what"].str.startswith(what)).any(), (where, what)
    with pytest.raises(ValueError, match="one cause in audit.toml, found .. for here"):
        audit.cause({"where": "here", "what": "a number"})
