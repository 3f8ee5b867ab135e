"""Go on with a run where it stopped: `python scripts/resume.py runs/NAME`."""

import argparse
from pathlib import Path

from fmnist import errors

with errors.exit_codes():  # Ctrl-C may come while these are imported
    from fmnist import consent, run
    from fmnist.summary import print_summary
    from fmnist.team import exit_codes, is_follower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of the run")
    parser.add_argument("--trust", action="store_true", help=consent.HELP)
    args = parser.parse_args()
    with errors.speaking(), exit_codes():
        done = run.resume(args.run, args.trust)
        if not is_follower():
            print_summary(done)


if __name__ == "__main__":
    main()
