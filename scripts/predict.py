"""Say what is on your own pictures: `python scripts/predict.py runs/NAME photos/ shirt.jpg`.

PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF, of any size and colour. Each picture is brought into the form
of Fashion-MNIST, light on black, cut out, centred, 28 x 28; --preview shows what came of it.
"""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fmnist.errors import UsageError, UserError, answering, exit_codes, raising

with exit_codes():
    from fmnist import answers, consent, evaluation, pictures, prediction, report
    from fmnist.prediction import Answer

EPILOG = """\
examples:
  %(prog)s runs/latest shirt.jpg
  %(prog)s sweeps/lr 'photos/**/*.webp' --format csv > labels.csv     the best run of a sweep
  %(prog)s runs/demo photos --preview sheet.png                       see what the network saw

exit code 1 where a picture could not be read; the others are answered all the same.
"""
STEPS = {
    "background": "keep the ground instead of setting it to black",
    "crop": "keep the whole picture instead of the thing's box",
    "pad": "stretch to a square instead of adding ground",
    "centre": "leave the thing at the upper left of the square",
    "antialias": "take single pixels instead of means when resizing",
    "sharpen": "do not sharpen what was resized",
    "stretch": "do not brighten the thing to the full range",
}


def main() -> None:
    warnings.filterwarnings("ignore", module="PIL")  # of odd metadata; what fails is told
    warnings.filterwarnings("ignore", "Glyph .* missing")  # in a name: the sheet shows a box
    args = _parser().parse_args()
    with answering(), raising(signal.SIGTERM):
        if not _predict(args):
            sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="the folder of a run, or of a sweep: its best run")
    add("paths", metavar="PATH", nargs="+", help="a picture, a folder, or a quoted pattern with *")
    add("--format", choices=answers.FORMATS, default="table", help="table (default), csv or json")
    add("--preview", metavar="FILE.png", type=Path, help="draw originals and what the network saw")
    add("--trust", action="store_true", help=consent.HELP)
    steps = parser.add_argument_group("steps of the preparation")
    steps.add_argument(
        "--invert",
        action=argparse.BooleanOptionalAction,
        help="take the thing as darker than its ground, or as lighter; detected by default",
    )
    for name, text in STEPS.items():
        steps.add_argument(f"--no-{name}", dest=name, action="store_false", help=text)
    return parser


def _predict(args: argparse.Namespace) -> bool:
    """Print the answers; returns whether every picture could be read."""
    if args.preview:
        _check_preview(args.preview)
    folder, notes = evaluation.choose(args.run)
    files, num_skipped = prediction.find_files(args.paths)
    if num_skipped:
        files_are = "file that is" if num_skipped == 1 else "files that are"
        notes.append(f"Skipped {num_skipped:,} {files_are} not named like pictures.")
    report.tell(notes)
    if args.preview and args.preview.exists() and any(map(args.preview.samefile, files)):
        raise UsageError(
            f"--preview {args.preview} is one of the pictures, and would replace it. Name another "
            "file."
        )
    if not files:
        raise UserError(f"There is no picture in {', '.join(args.paths)}.")
    from fmnist.run import load  # imports torch, once there is work

    shown: list[Answer] = []
    steps = pictures.Steps(args.invert, **{name: getattr(args, name) for name in STEPS})
    model = load(folder, args.trust)
    found = prediction.answer(model, files, steps, has_thumbnails=bool(args.preview))
    if args.preview:
        found = _keep_first(found, shown, prediction.NUM_SHOWN)
    # Rows that stream onto the same terminal would tear the bar.
    has_bar = sys.stderr.isatty() and not (args.format == "csv" and sys.stdout.isatty())
    num_bad = answers.write(_bar(found, len(files)) if has_bar else found, args.format)
    if num_bad:
        print(f"{num_bad:,} of {len(files):,} pictures could not be read.", file=sys.stderr)
    if args.preview:
        from fmnist import preview

        preview.save(shown, len(files), args.preview)
        report.tell([f"Wrote {args.preview}"])
    return not num_bad


def _keep_first(found: Iterable[Answer], kept: list[Answer], number: int) -> Iterator[Answer]:
    for each in found:
        if len(kept) < number:
            kept.append(each)
        yield each


def _bar(found: Iterable[Answer], total: int) -> Iterator[Answer]:
    """Show on stderr how far it is, and nothing once it is done."""
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as progress:
        yield from progress.track(found, total=total, description="Pictures")


def _check_preview(path: Path) -> None:
    """Refuse what cannot be written before anything is predicted; raises UsageError."""
    is_png = path.suffix.lower() == ".png"
    report.check_output("--preview", path, path.suffix if is_png else ".png")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--preview {path}: {path.parent} is not writable. Name another file.")


if __name__ == "__main__":
    main()
