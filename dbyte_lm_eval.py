"""`lm_eval --model dbyte`: tell lm-evaluation-harness of the student's adapter when its models are imported.

The harness (0.4.13) keeps a registry of lazily imported models but looks for no plugins. So `dbyte-lm-eval.pth`, which
is installed next to this file, imports this module when Python starts, and this module waits for the harness. It uses
the standard library alone, and a program that never imports the harness pays one comparison an import.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

HARNESS, NAME, ADAPTER = "lm_eval.models", "dbyte", "dbyte.evaluate.lm:StudentLM"


class Waiting(MetaPathFinder):
    """Finds nothing itself; lets the harness's models be found as always and then adds the adapter to them."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """The ordinary spec of `lm_eval.models`, which registers the adapter once it has run; None for all others."""
        if name != HARNESS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module) -> None:
                run(module)
                register()

            spec.loader.exec_module = run_and_register
        return spec


def register() -> None:
    """Add the adapter to the harness's registry, by its place: nothing of dbyte is imported before it is asked for."""
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=ADAPTER)


if HARNESS in sys.modules:
    register()
elif not any(type(finder).__name__ == "Waiting" and type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, Waiting())
