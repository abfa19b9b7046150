"""Everything is in pyproject.toml but the one file that belongs beside the packages, not inside: dbyte-lm-eval.pth."""

import os
import sysconfig

from setuptools import setup

packages = os.path.relpath(sysconfig.get_path("purelib"), sysconfig.get_path("data"))
setup(data_files=[(packages, ["dbyte-lm-eval.pth"])])
