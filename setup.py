"""What setup.cfg cannot declare: the manual pages, rendered from docs/man to where they belong."""

from __future__ import annotations

from distutils.command.install_data import install_data
from pathlib import Path

from setuptools import setup

MANUALS = Path("docs", "man")


class InstallData(install_data):
    """Installs the data files of setup.cfg, and share/man beside them."""

    def run(self) -> None:
        """Raise `docutils.utils.SystemMessage` for what docutils would only warn of."""
        super().run()
        for source in sorted(MANUALS.glob("*.rst")):
            page = Path(self.install_dir, "share", "man", f"man{source.stem[-1]}", source.stem)
            self.mkpath(str(page.parent))
            self.execute(render, (source, page))
            self.outfiles.append(str(page))


def render(source: Path, page: Path) -> None:
    """Write the manual page `page` from the reStructuredText of `source`."""
    # Here, because other commands, such as one that asks for the version, go without docutils.
    from docutils.core import publish_file  # noqa: PLC0415
    from docutils.writers.manpage import Writer  # noqa: PLC0415

    settings = {"_disable_config": True, "halt_level": 2, "input_encoding": "utf-8"}
    publish_file(
        source_path=str(source),
        destination_path=str(page),
        writer=Writer(),
        settings_overrides=settings,
    )


# Executed under this name by every front end.
if __name__ == "__main__":
    setup(cmdclass={"install_data": InstallData})
