"""Score a run, or the best run of a sweep: `python scripts/eval.py sweeps/NAME`.

The best run of a sweep is the finished one with the highest val/acc. Its score on the test set is
read once and kept in its folder, in eval-test.json; scripts/compare.py shows it.
"""

import argparse
import sys
from pathlib import Path

from fmnist import evaluation
from fmnist.errors import exit_codes


def main() -> None:
    sys.path.append(str(Path.cwd()))  # for a user's own classes
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run or of a sweep")
    parser.add_argument("--split", choices=evaluation.SPLITS, default="test")
    args = parser.parse_args()
    with exit_codes():
        folder, notes = evaluation.choose(args.run)
        print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
        scores = evaluation.evaluate(folder, args.split)
        acc, loss = scores[f"{args.split}/acc"], scores[f"{args.split}/loss"]
        print(f"{folder}: {args.split}/acc {acc:.2%}, {args.split}/loss {loss:.4f}")


if __name__ == "__main__":
    main()
