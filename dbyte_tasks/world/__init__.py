"""The built-in world: texts that a teacher of a million parameters can learn, and what is held out from them.

`world.py` is the corpus `world`. Each other module adds one subject that columns of MiniBench need: its words, which of
its facts are held out, and a writer of paragraphs. `full.py` mixes all of them into the corpus `world_full`.
"""
