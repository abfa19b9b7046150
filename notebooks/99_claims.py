# ---
# jupyter:
#   dbyte:
#     needs: all
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 99 · The claims of the paper, and its arithmetic
#
# Every directional and numerical claim of the abstract, sections 5 and 6 and appendices A to D, in our words
# (`dbyte_paper/published/claims.toml`), judged by what the other notebooks measured at this scale. Nothing is trained
# or evaluated here: whatever `results/<scale>/` holds is judged, and the rest is listed as not measured. The rules are
# in docs/evaluation.md, "What a claim is worth".
#
# **Cost:** seconds; what it reads and writes: [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0

# %%
from IPython.display import Image

from dbyte import presets
from dbyte_paper import audit, claims, figures, results, tables
from dbyte_paper.claims import UNMEASURED

# %%
chosen = presets.scale(scale)
record = results.begin(chosen.name, seeds=[seed], device=chosen.device)

# %% [markdown]
# ## The claims at a glance
#
# Values right of zero agree with the paper, values left of it are the opposite. A claim is `shown` where its whole
# interval of 95 % lies on the paper's side of what it asks, `opposite` where all of it lies on the other side, `equal`
# where it lies within two points, else `not shown`. What could have told nothing is `uninformative`.

# %%
found = claims.judged(scale=chosen)
measured = found[found["verdict"] != UNMEASURED]
print(f"{len(found)} claims: {claims.counts(found)}")
frames = [record.read(name) for name in sorted(set(measured["file"]) - {""})]  # "": another scale's
Image(figures.save(figures.claims_figure(found), "claims", frames=frames, scale=chosen.name))

# %% [markdown]
# The primary ones alone, one for each question of the paper:

# %%
primary = found[found["primary"]]
frames = [record.read(name) for name in sorted(set(primary["file"]) - {""})]
Image(figures.save(figures.claims_figure(primary), "primary_claims", frames=frames, scale=chosen.name))

# %% [markdown]
# ## Those that are judged
#
# `asked` is what the number has to be for the claim to hold; of several numbers the one that decides is shown. Errors
# are over clusters of items, and over seeds where there is more than one. Of the primary claims, p is Holm's among
# them. Minutes are those of the claim's notebook.

# %%
judged = found[found["verdict"].isin(claims.ORDER)]
tables.Table(claims.shown(judged)) if len(judged) else "none at this scale yet"

# %% [markdown]
# ## Those that were measured and are not judged
#
# These numbers could not have told whether the claim holds.

# %%
without = claims.uninformative(found)
tables.Table(without) if len(without) else "none"

# %% [markdown]
# ## Those that were not

# %%
tables.Table(claims.missing(found)) if len(measured) < len(found) else "none"

# %% [markdown]
# ## The paper's arithmetic
#
# Numbers that follow from others, or are printed twice, are worked out again from the printed digits. The tolerance is
# what rounding allows; beyond it two numbers do not fit, whichever of them is wrong.

# %%
checked = audit.audit()
tables.Table(audit.counts(checked))

# %% [markdown]
# The slips by what they come from: one cause may concern many numbers.

# %%
tables.Table(audit.causes(checked))

# %% [markdown]
# Each of them:

# %%
slips = checked[checked["verdict"] == "slip"].drop(columns=["verdict", "cause"])
tables.Table(slips, digits=3)

# %% [markdown]
# Among them, the conclusions whose sign the paper's own rows do not have:

# %%
signs = slips[slips["printed"].str.match("[<>]")]
tables.Table(signs, digits=3)

# %% [markdown]
# What stands under the label of another model: no slips, but nothing to compare either:

# %%
tables.Table(checked[checked["verdict"] == "another model"][["where", "what", "printed", "recomputed"]])

# %% [markdown]
# What cannot be derived from anything printed. So the one generated column of Table 4, GSM8K, has no baseline, and
# "most of the teacher's performance" cannot be asked of it:

# %%
tables.Table(checked[checked["verdict"] == "not derivable"][["where", "what", "printed"]])

# %% [markdown]
# ## What could not be reproduced
#
# Claims on baselines (BLT, ALM, H-Net, Bolmo), on-policy distillation and larger teachers wait for their notebooks. A
# verdict at `small` is one on the mechanism, with a tiny teacher and a made-up world, not on the paper's numbers.
