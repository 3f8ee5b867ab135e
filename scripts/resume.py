"""Go on with a run where it stopped: `python scripts/resume.py runs/NAME`."""

import argparse
import sys
from pathlib import Path

from fmnist import consent, run
from fmnist.errors import exit_codes
from fmnist.summary import print_summary


def main() -> None:
    sys.path.append(str(Path.cwd()))  # for a user's own classes
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("--trust", action="store_true", help=consent.HELP)
    args = parser.parse_args()
    with exit_codes():
        print_summary(run.resume(args.run, args.trust))


if __name__ == "__main__":
    main()
