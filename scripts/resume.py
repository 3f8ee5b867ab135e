"""Go on with a run where it stopped: `python scripts/resume.py runs/NAME`."""

import argparse
import sys
from pathlib import Path

from fmnist import report, run
from fmnist.errors import exit_codes


def main() -> None:
    sys.path.append(str(Path.cwd()))  # for a user's own classes
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of the run")
    folder: Path = parser.parse_args().run
    with exit_codes():
        report.print_summary(run.resume(folder))


if __name__ == "__main__":
    main()
