"""Train a classifier: `python scripts/train.py trainer.max_epochs=10`; see --help."""

import sys
from argparse import Namespace
from pathlib import Path

from fmnist.errors import UsageError, exit_codes

with exit_codes():  # Ctrl-C may come while these are imported
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from fmnist import command, run
    from fmnist.messages import CONF_DIR, help_text
    from fmnist.sweeps import jobs, plugins


def train(cfg: DictConfig) -> float | None:
    """Train a single run, or one job of a sweep."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return jobs.run_job(cfg)
    with exit_codes():
        words = [word.lstrip("+") for word in HydraConfig.get().overrides.task]
        done = run.train(cfg, overrides=words)
        if not run.is_follower():
            from fmnist import report

            report.print_summary(done)
    return None


def main() -> None:
    sys.path.append(str(Path.cwd()))  # for a user's own classes
    is_trial = "--dry-run" in sys.argv
    sys.argv[1:] = [word for word in sys.argv[1:] if word != "--dry-run"]
    args = get_args_parser().parse_args()
    if args.help and not args.overrides and not args.config_dir:
        print(help_text())
        return
    with exit_codes():
        if not _prepare(args, is_trial):
            return
    plugins.register()
    hydra.main(str(CONF_DIR), "train", version_base="1.3")(train)()


def _prepare(args: Namespace, is_trial: bool) -> bool:
    """Check the command and hand it to Hydra in `sys.argv`; returns whether anything is left to do.

    Raises UsageError for a command that cannot be meant.
    """
    if args.config_name or args.config_path:
        raise UsageError("The root config is conf/train.yaml. Add groups with --config-dir.")
    if args.experimental_rerun:
        raise UsageError("Go on with a run by scripts/resume.py: no pickles are read here.")
    asked = command.read_command(args.overrides, args.config_dir and Path(args.config_dir))
    if asked.is_sweep and not args.multirun:
        raise UsageError(f"{asked.varied[0]} has several values, which is a sweep: add -m.")
    if is_trial and not asked.is_sweep:
        print(run.preview(asked.cfg, asked.typed))
        return False
    flags = [word for word in sys.argv[1:] if word not in args.overrides]
    if not asked.is_sweep:  # -m without an axis is a single run
        flags = [word for word in flags if word not in ("-m", "--multirun")]
    sys.argv[1:] = [*flags, *asked.overrides, *["++hydra.sweeper.dry_run=true"] * is_trial]
    return True


if __name__ == "__main__":
    main()
