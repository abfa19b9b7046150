"""Sentences that a reader can quote, each made from results alone: what was not measured has none."""

from collections.abc import Iterator

import pandas as pd

from dbyte.evaluate.stats import AVERAGE
from dbyte_paper import audit, claims
from dbyte_paper.real_teacher import BITS, KL
from dbyte_paper.tables import average_drop, of_paper, retention_of_means

TOLD = {"shown": "shown", "equal": "level", "not shown": "open", "opposite": "opposite to the paper",
        claims.UNINFORMATIVE: "beyond what these results can tell", claims.UNMEASURED: "not measured"}


def of_one_teacher(columns: pd.DataFrame, text: pd.DataFrame | None) -> Iterator[str]:
    """What the students of a pretrained teacher keep, by the results of notebook 17."""
    means = columns[(columns["task"] == AVERAGE) & columns["above_chance"].notna()].set_index("model")
    kept = {model: f"{row.above_chance:.0f} % ({row.above_chance_low:.0f} to {row.above_chance_high:.0f})"
            for model, row in means.iterrows()}
    for model, words in (("Stage 1, tokenizer's", "after Stage 1, read along the tokenizer's boundaries"),
                         ("Stage 1, router's", "after Stage 1, read along its own router's boundaries"),
                         ("Stage 2", "after Stage 2, as a model of bytes")):
        if model in kept:
            yield f"Of a pretrained teacher's accuracy above chance its student keeps {kept[model]} {words}."
    told = pd.DataFrame() if text is None else text[text["model"] == "Stage 1, tokenizer's"]
    if len(told):
        near, bits = (told[told["measure"] == measure] for measure in (KL, BITS))
        yield (f"Along the tokenizer's boundaries its distribution over the next token is {near['value'].min():.2f} to "
               f"{near['value'].max():.2f} nats from its teacher's, and it needs {bits['more'].min():.1f} to "
               f"{bits['more'].max():.1f} % more bits per byte of held-out text.")


def of_students(frame: pd.DataFrame, *, columns: str) -> Iterator[str]:
    """What the student of a teacher that was trained here keeps of its accuracy; columns: what it was taught."""
    models = {name: rows.set_index("task") for name, rows in of_paper(frame).groupby("model")}
    told = []
    for stage in ("stage1", "stage2"):
        if {"teacher", stage} <= set(models):
            teacher, student = models["teacher"], models[stage]
            kept, drop = (found(teacher, student) for found in (retention_of_means, average_drop))
            above = ""
            if "chance" in teacher and teacher["value"].sum() > teacher["chance"].sum():
                above = f" ({retention_of_means(teacher, student, above_chance=True).value:.1f} % above chance)"
            told.append(f"{kept.value:.1f} ± {kept.stderr:.1f} % of its accuracy{above} after Stage {stage[-1]}, "
                        f"{drop.value:.1f} ± {drop.stderr:.1f} points less")
    if told:
        yield f"A student of a small teacher, taught {columns}, keeps {'; and '.join(told)}."


def of_claims(found: pd.DataFrame) -> Iterator[str]:
    """How the paper's claims stand: how many, and which of the primary ones; nothing where none was measured."""
    if (found["verdict"] == claims.UNMEASURED).all():
        return
    yield f"Of {len(found)} claims of the papers, {claims.counts(found)}."
    primary = found[found["primary"]]
    told = []
    for verdict, words in TOLD.items():
        said = primary.loc[primary["verdict"] == verdict, "claim"]
        if len(said):
            told.append(f"{words}: {'; '.join(said)}")
    yield f"Of the {len(primary)} primary ones, {'. '.join(told)}."


def of_arithmetic(found: pd.DataFrame) -> Iterator[str]:
    """How well the paper's own numbers fit together; found: of `audit.audit`."""
    yield (f"Of {len(found)} numbers that follow from others of the paper {(found['verdict'] == 'slip').sum()} do not "
           f"fit them, for {len(audit.causes(found))} causes.")


def of_costs(times: pd.DataFrame) -> Iterator[str]:
    """What it took."""
    yield (f"All of it took {times['value'].sum() / 3600:.1f} hours of one machine, the longest run of each of "
           f"{len(times)} notebooks.")
