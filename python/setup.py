"""Puts the library into the package where one has been built: PI0_LIBRARY, or build/libpi0.so of this repository."""

import os
import pathlib
import shutil

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent
BUILT = pathlib.Path(os.environ.get("PI0_LIBRARY") or HERE.parent / "build" / "libpi0.so")


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        if BUILT.is_file() and not self.editable_mode:
            shutil.copyfile(BUILT, pathlib.Path(self.build_lib) / "pi0" / "libpi0.so")


class MaybeBinary(Distribution):
    """A wheel that holds a library is for one platform."""

    def has_ext_modules(self):
        return BUILT.is_file()


setup(cmdclass={"build_py": BuildWithLibrary}, distclass=MaybeBinary)
