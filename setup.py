"""Builds nothing stale, and adds the manual pages of docs/man to what setup.cfg declares."""

from __future__ import annotations

import shutil
from distutils.command.install_data import install_data
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MANUALS = Path("docs", "man")


class BuildPy(build_py):
    """Leaves out the modules that an older version of this checkout has left in build/."""

    def run(self) -> None:
        """Remove the package that was built last, and build it."""
        shutil.rmtree(Path(self.build_lib, "stsresolver"), ignore_errors=True)
        super().run()


class InstallData(install_data):
    """Installs the data files of setup.cfg and the manual pages in share/man."""

    def run(self) -> None:
        """Raise `docutils.utils.SystemMessage` on a page of which docutils warns."""
        super().run()
        for source in sorted(MANUALS.glob("*.rst")):
            page = Path(self.install_dir, "share", "man", f"man{source.stem[-1]}", source.stem)
            self.mkpath(str(page.parent))
            self.execute(render, (source, page))
            self.outfiles.append(str(page))


def render(source: Path, page: Path) -> None:
    """Write the manual page `page` from the reStructuredText of `source`."""
    # Imported late: commands that install nothing, such as `setup.py --version`, need no docutils.
    from docutils.core import publish_file  # noqa: PLC0415
    from docutils.writers.manpage import Writer  # noqa: PLC0415

    settings = {"_disable_config": True, "halt_level": 2, "input_encoding": "utf-8"}
    publish_file(
        source_path=str(source),
        destination_path=str(page),
        writer=Writer(),
        settings_overrides=settings,
    )


# Every build front end executes this file as __main__.
if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPy, "install_data": InstallData})
