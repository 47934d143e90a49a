"""Command-line arguments as both programs read them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from ..version import __version__
from .output import complain, say

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


# How shtab completes the argument of an option that names a file, in each shell.
FILE_NAMES = {"bash": "_shtab_compgen_files", "zsh": "_files"}


class Arguments(argparse.ArgumentParser):
    """Knows --version, and ends with 64 (EX_USAGE) for wrong arguments."""

    def __init__(self, *, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def error(self, message: str) -> NoReturn:
        """Print how the program is used, and end it."""
        complain(f"{self.format_usage()}{self.prog}: {message}")
        sys.exit(os.EX_USAGE)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # Help and version. argparse's own passes over what could not be written.
        say(self.prog, message.removesuffix("\n"))
