"""Scripts: activities that always have the same four steps, told about a person.

"Anna bakes bread. First Anna mixes the flour. Then Anna kneads the dough. Then Anna heats the oven. Last Anna slices
the loaf." A hash decides whether a (person, script) is held out; training text has no sentence of a held-out one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dbyte_tasks.world.world import NAMES, WORDS, WORLD

ORDER = ("First", "Then", "Then", "Last")


@dataclass(frozen=True)
class Script:
    """An activity and its four steps."""

    name: str
    steps: tuple[str, str, str, str]

    def told(self, name: str, steps: int) -> str:
        """The headline and the first steps, as sentences about a person."""
        sentences = [f"{word} {name} {step}." for word, step in zip(ORDER[:steps], self.steps, strict=False)]
        return " ".join([f"{name} {self.name}.", *sentences])


SCRIPTS = tuple(Script(name, tuple(steps.split(", "))) for name, steps in WORDS["scripts"].items())


# (person, script) by whether it is held out
PAIRS = WORLD.split("script", [((name, script.name), (name, script)) for name in NAMES for script in SCRIPTS])


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Two complete scripts, each about one of the cast, that are not held out."""
    allowed = [(name, script) for name in cast for script in SCRIPTS if not WORLD.held_out("script", name, script.name)]
    return " ".join(script.told(name, len(ORDER)) for name, script in rng.sample(allowed, 2))
