"""Command-line arguments as both programs read them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from .version import __version__


class Arguments(argparse.ArgumentParser):
    """Knows --version, and ends with 64 (EX_USAGE) for wrong arguments."""

    def __init__(self, *, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def error(self, message: str) -> NoReturn:
        """Print how the program is used, and end it."""
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")
