"""Write a finished run, or the best one of a sweep, as one file for other programs.

The file takes uint8 images (N, 1, 28, 28) and gives probabilities (N, 10). It is compared with the
model on 1,000 test images before it is written; a model card is written beside it. Without --out
both go into the folder of the run.
"""

import argparse
import signal
from pathlib import Path

from fmnist.errors import answering, exit_codes, raising

with exit_codes():
    from fmnist import consent, evaluation, export, report
    from fmnist.card import Exported

EPILOG = """\
examples:
  %(prog)s runs/latest                              runs/.../model.onnx, for onnxruntime
  %(prog)s runs/latest --format torch_export        model.pt2, for torch.export.load
  %(prog)s sweeps/lr --out ~/best.onnx              the best run by val/acc
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run or of a sweep")
    parser.add_argument("--format", choices=tuple(export.SUFFIXES), default="onnx")
    parser.add_argument("--out", metavar="FILE", type=Path, help="ends in .onnx or .pt2")
    parser.add_argument("--trust", action="store_true", help=consent.HELP)
    args = parser.parse_args()
    with answering(), raising(signal.SIGTERM):
        folder, notes = evaluation.choose(args.run)
        report.tell(notes)
        made, faults = export.export(folder, args.format, args.out, args.trust)
        report.tell(faults)
        _print(made)


def _print(made: Exported) -> None:
    check = made.check
    seen = f"{check.num_images:,} {check.images}"
    lines = [
        f"{made.path}: {made.num_bytes / 1e6:.2f} MB",
        f"checked on {seen}: labels equal, probabilities {check.apart}",
        f"{check.file_speed:,.0f} images/s; the model: {check.model_speed:,.0f} images/s",
        f"card: {made.card}",
    ]
    report.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
