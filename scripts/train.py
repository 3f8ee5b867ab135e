"""Train a classifier: `python scripts/train.py trainer.max_epochs=10`; see --help."""

import sys
from pathlib import Path

from fmnist.errors import UsageError, exit_codes

with exit_codes():  # Ctrl-C may come while these are imported
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from fmnist import config, launchers, record, report, run
    from fmnist.messages import CONF_DIR


def train(cfg: DictConfig) -> None:
    """Train a single run."""
    with exit_codes():
        done = run.train(cfg, overrides=_overrides())
        if not run.is_follower():
            report.print_summary(done)


def train_job(cfg: DictConfig, axes: list[str]) -> float | None:
    """Train one job of a sweep over `axes`."""
    sweep = HydraConfig.get().sweep
    folder = Path(sweep.dir) / sweep.subdir
    done = run.train(cfg, overrides=_overrides(), folder=folder, axes=axes)
    return done.scores.get(cfg.metric)


def main() -> None:
    sys.path.append(str(Path.cwd()))  # for a user's own classes
    args = get_args_parser().parse_args()
    with exit_codes():
        if args.config_name or args.config_path:
            raise UsageError("The root config is conf/train.yaml. Add groups with --config-dir.")
        command = config.read_command(args.overrides, args.config_dir and Path(args.config_dir))
        overrides = list(command.overrides)
        if command.axes:
            if not args.multirun:
                axis = next(iter(command.axes))
                raise UsageError(f"{axis} has several values, which is a sweep: add -m.")
            launchers.register()
            name = launchers.sweep_name(command)
            record.claim(launchers.SWEEPS, name, "")
            overrides.append(f"++name={name}")
        flags = [word for word in sys.argv[1:] if word not in args.overrides]
        if not command.axes:  # -m without an axis is a single run
            flags = [word for word in flags if word not in ("-m", "--multirun")]
        sys.argv[1:] = flags + overrides

        def task(cfg: DictConfig) -> float | None:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return train_job(cfg, list(command.axes))
            train(cfg)
            return None

        hydra.main(str(CONF_DIR), "train", version_base="1.3")(task)()


def _overrides() -> list[str]:
    return [word.lstrip("+") for word in HydraConfig.get().overrides.task]


if __name__ == "__main__":
    main()
