"""What became of a sweep or run that was submitted to SLURM: `python scripts/status.py NAME`.

Shows what SLURM and the folder of each job say, side by side, the log, and what to type next.
"""

import argparse

from fmnist.errors import answering, clean, exit_codes

with exit_codes():
    from fmnist.sweeps import status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help="a sweep or a run, or its folder")
    parser.add_argument("--all", action="store_true", help="every job, not the first 20")
    args = parser.parse_args()
    with answering():
        for line in status.lines(status.overview(status.find(args.name)), args.all):
            print(clean(line).replace("\n", " "))


if __name__ == "__main__":
    main()
