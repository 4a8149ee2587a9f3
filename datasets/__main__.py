"""``python -m datasets check PATH``: see ``datasets.check``."""

import argparse
import os
import sys
from pathlib import Path

from datasets import check


def main() -> int:
    """Parse the command line and run its verb; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m datasets", description="Look at datasets.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    checked = verbs.add_parser(
        "check",
        help="decode every image of an ImageNet folder, and list the files that are odd",
        description="Exit code 0: all images can be used; 2: no layout that is known; 4: there "
        "are files that training would skip.",
    )
    checked.add_argument("path", type=Path, help="the folder that data.path would name")
    checked.add_argument("--json", action="store_true", help="print one JSON object")
    checked.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="default: one for each core"
    )
    options = parser.parse_args()
    return check.run(options.path.expanduser(), max(1, options.threads), options.json)


if __name__ == "__main__":
    sys.exit(main())
