"""Everything is in pyproject.toml but the one file that belongs next to the packages, not inside: dbyte-lm-eval.pth."""

import os
import sysconfig

from setuptools import Distribution, setup


class WithData(Distribution):
    """Setuptools asks an editable install `has_data`, which no distribution answers: data files were left out."""

    def has_data(self) -> bool:
        return self.has_data_files()


packages = os.path.relpath(sysconfig.get_path("purelib"), sysconfig.get_path("data"))
setup(data_files=[(packages, ["dbyte-lm-eval.pth"])], distclass=WithData)
