"""Prove that a killed run ends like an uninterrupted one, for any experiment.

    python scripts/verify_resume.py experiment=notebook trainer.max_epochs=3 --kills 5

Trains once whole and once killed (SIGKILL) at random moments and started again by the same line;
then compares weights, scores and metrics.csv bit for bit. Exit code 0: equal.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from fmnist.errors import exit_codes

with exit_codes():  # Ctrl-C may come while these are imported
    from fmnist import config, consent, proof


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as for scripts/train.py")
    parser.add_argument("--kills", type=int, default=3, help="how often to kill (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default 0)")
    parser.add_argument("--folder", type=Path, help="keep both runs here (default: deleted)")
    parser.add_argument("--trust", action="store_true", help=consent.HELP)
    args = parser.parse_args()
    if args.kills < 1:
        parser.error(f"--kills must be >= 1, got {args.kills}")
    with exit_codes(), tempfile.TemporaryDirectory() as temporary:
        overrides = [*args.overrides, "checkpoints=all"]
        cfg = config.compose(overrides)
        for key in ("dir", "source"):  # both runs have a working folder of their own
            if cfg.data[key]:
                overrides.append(f"data.{key}='{Path(cfg.data[key]).resolve()}'")
        train = [sys.executable, str(Path(__file__).with_name("train.py").resolve()), *overrides]
        train += ["--trust"] * args.trust
        folder = args.folder or Path(temporary)
        equal = proof.verify(train, folder.resolve(), args.kills, args.seed)
    sys.exit(not equal)


if __name__ == "__main__":
    main()
