"""Run the recorded experiments that fit this machine again, and write docs/results.md.

Each is a sweep in sweeps/results-NAME, which goes on where it was stopped when the line is typed
again. Finished runs are never trained again, not at a new commit either: delete sweeps/results-NAME
to measure anew. What it measured is kept in docs/results.json, from which the headers of
conf/experiment, the page and its figures are written. Only finished runs of one clean commit are
recorded; what is not run keeps its old result.

On a machine with a GPU only the experiments that need one fit (trainer=gpu), elsewhere only the
others: the rows of CPUs are not overwritten by a GPU's. To measure them there, hide the GPU:
CUDA_VISIBLE_DEVICES= python scripts/results.py NAME
"""

import argparse
import signal
import sys

from fmnist.errors import UsageError, answering, exit_codes, raising

with exit_codes():
    from fmnist.results import render, store, update

EPILOG = """\
examples:
  %(prog)s                     all experiments that fit this machine, then the ablation: hours
  %(prog)s cnn mlp             these
  %(prog)s --collect           what is in sweeps/results-* already; nothing is trained
  %(prog)s --render            the page again, from docs/results.json
"""


def main() -> None:
    args = _parser().parse_args()
    with answering(), raising(signal.SIGTERM, signal.SIGHUP):
        results, is_whole = store.read(), True
        if args.render and args.names:
            raise UsageError("--render writes everything anew: leave the names out.")
        if not args.render:
            change = update.take if args.collect else update.measure
            results, is_whole = change(results, args.names, _say)
            store.write(results)
        for path in render.write(results):
            print(path)
    sys.exit(not is_whole)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="experiments, or ablation")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--collect", action="store_true", help="train nothing")
    ways.add_argument("--render", action="store_true", help="read no runs either")
    return parser


if __name__ == "__main__":
    main()
