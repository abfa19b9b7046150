# ---
# jupyter:
#   dbyte:
#     needs: []
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · The teacher
#
# Everything begins with a token-trained language model and its tokenizer. At scales `smoke` and `small` both are
# trained here, on the built-in world and on the documentation strings of the installed packages, in Hugging Face
# format; at `gpu` on that world and the text in the folder `text/`. At `hub` and `paper` a published model takes their
# place, and the rest of the notebooks does not notice.
#
# **Shows:** what the corpora are, that tokens and bytes align exactly, what the teacher has learned.
# **Cost:** two CPU cores; the minutes that each notebook took are in `results/<scale>/notebook_times.csv`.

# %% tags=["parameters"]
scale = "smoke"
seed = 0

# %%
import time
from functools import partial

from IPython.display import Image, display

from dbyte import presets
from dbyte.distill.data import heldout_corpus, training_corpora
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, bits_row, column_rows
from dbyte.model.teacher import load_teacher
from dbyte.paths import FIGURES
from dbyte.report import diagrams, figures, results, tables
from dbyte.report.provenance import environment_report
from dbyte.text.spans import TokenBytes

# %%
started, chosen = time.monotonic(), presets.scale(scale)
write = partial(results.write_results, scale=scale, seeds=[seed], device=chosen.device)
print(environment_report(scale=scale, seed=seed, device=chosen.device))

# %% [markdown]
# ## The corpora
#
# Documents are deduplicated and split by a hash of their text, so training and held-out documents never overlap, and
# the content hash says whether two installations read the same text.

# %%
corpora = training_corpora(chosen, seed=seed) + [heldout_corpus(chosen, name, seed=seed) for name, _ in chosen.corpora]
rows = [{"corpus": c.name, "split": c.split, "value": c.text_bytes, "stderr": float("nan"), "n": len(c.documents),
         "content_hash": c.content_hash[:16]} for c in corpora]
write("corpus", rows, keys=["corpus", "split"],
      config_hash=corpora[0].content_hash, wall_seconds=time.monotonic() - started)
shown = results.read_results("corpus", scale=scale).drop(columns="stderr")
tables.Table(shown.rename(columns={"value": "bytes", "n": "documents"}))

# %%
for corpus in corpora[: len(chosen.corpora)]:
    print(f"--- {corpus.name}\n{corpus.documents[0][:600]}\n")

# %% [markdown]
# ## The teacher
#
# Trained now, or loaded if it was trained before: a run is addressed by everything that determines it. A run that was
# interrupted goes on where it stopped.

# %%
folder = teacher_run(chosen, seed=seed)
model, tokenizer = load_teacher(folder)
print(f"{type(model).__name__}: {sum(w.numel() for w in model.parameters()):,} parameters, {len(tokenizer):,} tokens")

# %% [markdown]
# ## Tokens and bytes
#
# A token stands for a fixed byte string, and a boundary marks a token's last byte (the alignment that every later step
# trains on). This is exact also where one character is split over several tokens. Character offsets, which the authors'
# code uses, put several tokens of one character on one byte and lose count.

# %%
token_bytes = TokenBytes.from_tokenizer(tokenizer)
examples = {"words and digits": "Where does Anna live? 3 + 4 = 7.", "accents": "naïve café", "emoji and CJK": "😀 字節"}
aligned = {title: token_bytes.align(text) for title, text in examples.items()}
pictures = [(title, diagrams.chunks(a.byte_ids, a.boundary)) for title, a in aligned.items()]
path = figures.write_png(diagrams.alignment_figure(pictures), FIGURES / scale / "alignment.png")
display(Image(path))

# %%
texts = [text for corpus in corpora for text in corpus.documents]
checked = token_bytes.align_batch(texts)
whole = sum(bytes(a.byte_ids.tolist()) == t.encode() and a.boundary.sum() == len(a.token_ids)
            for t, a in zip(texts, checked, strict=True))
size, tokens = sum(len(a.byte_ids) for a in checked), sum(len(a.token_ids) for a in checked)
print(f"{whole:,} of {len(texts):,} documents: joined bytes equal the text, one boundary a token; "
      f"{size / tokens:.2f} bytes a token")
assert whole == len(texts)

# %% [markdown]
# ## What the teacher knows
#
# MiniBench has the columns of the paper's benchmarks, generated from the world and held out from training; accuracy is
# in percent with its standard error. Bits per byte are nats / (ln 2 x UTF-8 bytes) on held-out documents.

# %%
measurer, wall = Measurer(chosen, seed), time.monotonic()
found = measurer.columns(folder, "token")
write("teacher", column_rows("teacher", found), keys=["model", "task"],
      config_hash=folder.parent.name, wall_seconds=time.monotonic() - wall)
accuracy = results.read_results("teacher", scale=scale)
tables.Table(accuracy)

# %%
wall = time.monotonic()
rows = [bits_row("teacher", name, measurer.bits(folder, "token", name)) for name, _ in chosen.corpora]
write("teacher_bits", rows, keys=["model", "corpus"],
      config_hash=folder.parent.name, wall_seconds=time.monotonic() - wall)
tables.Table(results.read_results("teacher_bits", scale=scale).drop(columns="folded"))

# %% [markdown]
# ## Is it good enough to be a teacher?
#
# Retention means something only where the teacher is far above chance. The bounds are what this project asks of the
# teacher at `small`; at `smoke` it has hardly trained and is expected to miss them.

# %%
bounds = {"ARC-E": 95, "LMB": 80, "GSM8K": 90}
by_task = accuracy.set_index("task")
tables.Table(tables.claims_table([
    tables.Claim(f"teacher, {task}, accuracy %", by_task.value[task], int(by_task.n[task]), by_task.stderr[task],
                 at_least=bound)
    for task, bound in bounds.items()]))

# %% [markdown]
# ## What is not shown here
#
# The paper's teachers (Llama 3.2 3B, Qwen3 4B, OLMo 2 1B) need a GPU and a download; `scale="hub"` and `scale="paper"`
# name them. MiniBench measures whether capabilities survive distillation, not how a model compares with published ones.
