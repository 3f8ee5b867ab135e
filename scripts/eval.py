"""Evaluate a run, or the best run of a sweep: `python scripts/eval.py sweeps/NAME`.

Prints scores with 95 % intervals, each class, the confusion matrix and the calibration; keeps them
in the run's folder as eval-<split>.json and figures/eval-<split>-*.png. A split is read once: asked
again, the kept report is printed; delete it to measure again. The best run of a sweep is the
finished one with the highest val/acc. The data are those of the run's data.dir or, where that is
not on this machine, of $FMNIST_DATA.
"""

import argparse
import signal
from pathlib import Path

from fmnist.errors import answering, exit_codes, raising

with exit_codes():
    from fmnist import consent, evaluation, report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run or of a sweep")
    parser.add_argument("--split", choices=evaluation.SPLITS, default="test")
    parser.add_argument("--trust", action="store_true", help=consent.HELP)
    args = parser.parse_args()
    with answering(), raising(signal.SIGTERM):
        folder, notes = evaluation.choose(args.run)
        report.tell(notes)
        try:
            found = evaluation.evaluate(folder, args.split, args.trust)
        except evaluation.NotKeptError as error:
            report.print_evaluation(folder, error.report)
            raise
        report.print_evaluation(folder, found)
        report.tell(found["notes"])


if __name__ == "__main__":
    main()
