"""More of the built-in world, a module a subject: what the columns of MiniBench need that `world.py` does not teach.

Each module has its words, what of them is held out, and a writer of paragraphs. `full_world.py` mixes them with the
paragraphs of `world.py`; the corpus `world` has none of them.
"""
