"""Everything is in pyproject.toml but this: a wheel carries the notebooks' scripts, which lie beside the packages."""

from pathlib import Path
from shutil import copy

from setuptools import setup
from setuptools.command.build_py import build_py


class WithNotebooks(build_py):
    """Copies the scripts to where dbyte/paths.py looks outside a checkout; an editable install has the checkout."""

    def run(self) -> None:
        """Build as always, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "dbyte_paper", "notebooks")
            target.mkdir(parents=True, exist_ok=True)
            for script in Path(__file__).parent.glob("notebooks/*.py"):
                copy(script, target)


setup(cmdclass={"build_py": WithNotebooks})
