"""Measure how fast this is: `python scripts/bench.py`, against its peers and the machine's limit.

Every measurement happens in a process of its own, contestants in turn, several rounds.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from fmnist.bench import benchmark, output, results
from fmnist.bench.settings import CONTESTANTS, MEASURES, Settings, default_data_dir
from fmnist.errors import UsageError, exit_codes, raising
from fmnist.record import write_atomically


def _listed(choices: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:10} {what}" for name, what in choices.items()).replace("%", "%%")


EPILOG = f"""\
measures:
{_listed(MEASURES)}

contestants:
{_listed(CONTESTANTS)}

examples:
  %(prog)s --quick                                 does it all run? no meaning
  %(prog)s --md bench.md --json bench.json         everything, an hour or two on 2 cores
  %(prog)s --measure matmul,epoch --rounds 3       epochs alone
  %(prog)s --device cuda                           on a GPU
  %(prog)s --keras-python ~/tf/bin/python          Keras from another environment
"""


def main() -> None:
    args = _parser().parse_args()
    with exit_codes(), raising(signal.SIGTERM):
        _check(args)
        found = results.merge([*map(results.read, args.show)]) if args.show else _measure(args)
        output.write_tables(found)
        if args.md:
            write_atomically(args.md, output.to_markdown(found))
        if found.has_failed:
            sys.exit(1)


def _measure(args: argparse.Namespace) -> results.Results:
    settings = Settings(
        data_dir=default_data_dir(),
        measures=args.measure,
        contestants=tuple(n for n in args.only or CONTESTANTS if n not in args.skip),
        rounds=args.rounds,
        epochs=args.epochs,
        batch_sizes=args.batch_sizes,
        num_workers=args.workers,
        device=args.device,
        quick=args.quick,
        keras_python=args.keras_python,
    )

    def save(found: results.Results) -> None:
        if args.json:
            write_atomically(args.json, found.to_json())

    command = shlex.join(["python", "scripts/bench.py", *sys.argv[1:]])
    return benchmark.run(settings, command, say=_say, save=save)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--measure", metavar="A,B", type=_words, default=(), help="default: all of the device")
    add("--only", metavar="A,B", type=_words, default=(), help="these contestants")
    add("--skip", metavar="A,B", type=_words, default=(), help="not these contestants")
    add(
        "--rounds", metavar="N", type=_count, help="default: 5; 3 of long measures; sweep, growth 1"
    )
    add("--epochs", metavar="N", type=_count, default=3, help="of an epoch measurement, from 2 on")
    add("--batch-sizes", metavar="N,N", type=_counts, default=(64, 512))
    add(
        "--workers",
        metavar="N,N",
        type=_counts,
        default=(),
        help="of DataLoaders; the best is taken",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--quick", action="store_true", help="once, on a few batches: does it all run?")
    add("--keras-python", metavar="PATH", default=sys.executable)
    add("--json", metavar="FILE", type=Path, help="every sample; kept up to date on the way")
    add("--md", metavar="FILE", type=Path, help="the tables as Markdown")
    add("--show", metavar="FILE", type=Path, nargs="+", help="print what --json wrote, only")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse files that cannot be written after hours; raises UsageError."""
    for option, path in (("--json", args.json), ("--md", args.md)):
        if path and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise UsageError(f"{option} must name a file in a folder that is there, got {path}.")
    unknown = [name for name in args.skip if name not in CONTESTANTS]
    if unknown:
        raise UsageError(f"--skip must be of {', '.join(CONTESTANTS)}, got {unknown[0]!r}.")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, text.split(","))))


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {word!r}")
    return int(word)


def _counts(text: str) -> tuple[int, ...]:
    words = _words(text)
    if not words or not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"must be whole numbers like 64,512, got {text!r}")
    return tuple(map(int, words))


if __name__ == "__main__":
    main()
