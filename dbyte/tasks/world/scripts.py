"""Scripts: activities that always have the same four steps, told about a person.

"Anna bakes bread. First Anna mixes the flour. Then Anna kneads the dough. Then Anna heats the oven. Last Anna slices
the loaf." A hash decides whether a (person, script) is held out; training text has no sentence of a held-out one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dbyte.tasks.world.world import NAMES, WORLD

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


SCRIPTS = tuple(Script(name, tuple(steps.split(", "))) for name, steps in (
    ("bakes bread", "mixes the flour, kneads the dough, heats the oven, slices the loaf"),
    ("makes tea", "fills the kettle, boils the water, warms the pot, pours a cup"),
    ("plants a tree", "digs a hole, lowers the roots, packs the soil, waters the trunk"),
    ("washes the car", "rinses the roof, soaps the doors, scrubs the wheels, dries the glass"),
    ("posts a letter", "takes a pen, signs the page, folds the sheet, licks the stamp"),
    ("goes fishing", "ties a hook, finds a worm, casts the line, lands a trout"),
    ("paints a wall", "covers the floor, opens the tin, dips the brush, hides a stain"),
    ("goes to bed", "locks the house, brushes the teeth, sets the alarm, shuts both eyes"),
    ("takes the train", "buys a ticket, reads the board, walks to the platform, finds a seat"),
    ("lights a fire", "gathers twigs, stacks the logs, strikes a match, feels the heat"),
    ("builds a kite", "bends the sticks, glues the paper, knots the string, runs into the wind"),
    ("knits a scarf", "picks the wool, counts the stitches, turns the needles, trims the ends"),
    ("milks a cow", "calls the herd, places the stool, rinses the bucket, carries the milk"),
    ("climbs a hill", "laces the boots, follows the path, rests at a bench, greets the summit"),
    ("sells fruit", "parks the cart, piles the pears, shouts the price, counts the coins"),
    ("mends a shoe", "pulls the nail, scrapes the sole, spreads the glue, polishes the leather"),
    ("visits the doctor", "rings the clinic, waits in the hall, shows the tongue, thanks the nurse"),
    ("plays chess", "sets the board, moves a pawn, guards the queen, traps the king"),
    ("cooks soup", "peels the onions, heats the broth, adds the salt, tastes a spoon"),
    ("sails a boat", "checks the wind, hoists the sail, steers past the rocks, drops the anchor"),
    ("takes a photo", "cleans the lens, frames the view, holds the breath, presses the shutter"),
    ("cuts hair", "spreads a towel, wets the curls, snips the fringe, sweeps the tiles"),
    ("robs a bank", "studies the guards, wears a mask, empties the safe, flees the police"),
    ("moves house", "hires a van, wraps the plates, loads the sofa, hands over the keys"),
))


# (person, script) by whether it is held out
PAIRS = WORLD.split("script", [((name, script.name), (name, script)) for name in NAMES for script in SCRIPTS])


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Two complete scripts, each about one of the cast, that are not held out."""
    allowed = [(name, script) for name in cast for script in SCRIPTS
               if not WORLD.held_out("script", name, script.name)]
    return " ".join(script.told(name, len(ORDER)) for name, script in rng.sample(allowed, 2))
