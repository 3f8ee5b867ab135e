"""Compare runs: `python scripts/compare.py runs sweeps/NAME`.

Finished runs are ranked by validation accuracy, seeds of the same config together.
"""

import argparse
import sys
from pathlib import Path

from fmnist.errors import UsageError, answering, exit_codes

with exit_codes():
    from fmnist import report
    from fmnist.compare import formats, pairs
    from fmnist.compare.table import METRIC, Table, build_table

EPILOG = """\
KEY is any config key, score or fact of the record, or its end where that is unambiguous: optim.lr
or lr, val/acc, status, num_parameters. Scores are fractions of 1; 92%% is 0.92.

examples:
  %(prog)s runs sweeps                              all there is
  %(prog)s sweeps/lr --top 5                        the five best settings
  %(prog)s runs --where model=cnn --where 'lr<=1e-3' --sort duration_s
  %(prog)s sweeps/lr --paired lr=0.003 lr=0.001     is the difference more than noise?
  %(prog)s runs/mine runs/theirs --curves both.png --html both.html
"""


def main() -> None:
    args = _parser().parse_args()
    if not args.paths and not (args.paired and all(map(report.is_path, args.paired))):
        _parser().error("the following arguments are required: PATH")
    with answering():
        _compare(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("paths", metavar="PATH", type=Path, nargs="*", help="a run, a sweep, runs/ or sweeps/")
    add("--where", metavar="COND", action="append", default=[], help="KEY=VALUE, != < <= > >=")
    add("--sort", metavar="KEY", default=METRIC, help="KEY, KEY:asc or KEY:desc")
    add("--top", metavar="N", type=_count, help="only the first N that are ranked")
    add("--each", action="store_true", help="do not take the seeds together")
    add("--paired", metavar=("A", "B"), nargs=2, help="t-test of A against B: PATHs or CONDs")
    add("--curves", metavar="FILE.png", type=Path, help="draw val/loss and val/acc by epoch")
    add("--html", metavar="FILE.html", type=Path, help="write one page with table and curves")
    form = parser.add_mutually_exclusive_group()
    for name, note in (("csv", "full precision"), ("json", "full precision"), ("md", "rounded")):
        text = f"print {name} on stdout, {note}"
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=text)
    return parser


def _compare(args: argparse.Namespace) -> None:
    _check(args)
    if args.paired:
        found = pairs.match(*report.read_sides(args.paired, args.paths, args.where))
        if args.form:
            report.write(formats.write_pairs(found, args.form))
        else:
            report.print_pairs(found)
        return
    runs = report.read_runs(args.paths, args.where)
    rows = build_table(runs, sort=args.sort, top=args.top, each=args.each)
    if args.curves or args.html:
        _write_files(rows, args)
    if args.form:
        report.write(formats.write_table(rows, args.form))
    else:
        report.print_rows(rows)


def _write_files(rows: Table, args: argparse.Namespace) -> None:
    from fmnist.compare import histories  # epochs are read for a plot only

    curves = histories.read_curves(rows)
    if args.curves:
        from fmnist.compare import joint

        joint.save(curves, args.curves)
    if args.html:
        from fmnist.compare import page

        page.save(rows, curves, args.html)
    for path in filter(None, (args.curves, args.html)):
        print(f"Wrote {path}", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before anything is read; raises UsageError."""
    for option, path, ending in (("--curves", args.curves, ".png"), ("--html", args.html, ".html")):
        if path:
            report.check_output(option, path, ending)
    if args.paired:
        given = {name: getattr(args, name) for name in ("top", "each", "curves", "html")}
        unused = [f"--{name}" for name, value in given.items() if value]
        if args.sort != METRIC:
            unused.append("--sort")
        if unused:
            raise UsageError(f"--paired prints one test: {', '.join(unused)} cannot go with it.")
        if args.paths and all(map(report.is_path, args.paired)):
            raise UsageError("--paired with two PATHs compares these. Leave the other PATHs out.")


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {word!r}")
    return int(word)


if __name__ == "__main__":
    main()
