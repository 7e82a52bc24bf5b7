"""The command ``vis-callbacks``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 when it was asked for something that is not there.

    Args:
        argv: The arguments after the program's name. None: those of the process.
    """
    parser = argparse.ArgumentParser(prog="vis-callbacks", description="Look at what an image classifier learned.")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    _add_report(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (OSError, ValueError) as error:
        print(f"vis-callbacks: {error}", file=sys.stderr)
        return 2


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="write the HTML report of a run, also of one that was killed",
        description="Write the pictures of a run into one HTML file that opens in any browser, and print its path.",
    )
    parser.add_argument("log_dir", type=Path, help="log directory of the run, such as lightning_logs/version_0")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: report.html beside the pictures)")
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from vis_callbacks.report.html import write_report  # here, so that other commands need not load it

    print(write_report(arguments.log_dir, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
