"""Train a classifier: `python scripts/train.py trainer.max_epochs=10`; see --help."""

import functools
import io
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

from fmnist import errors

with errors.exit_codes():  # Ctrl-C may come while these are imported
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from fmnist import command, consent, launch, run
    from fmnist.errors import UsageError
    from fmnist.messages import CONF_DIR, help_text
    from fmnist.sweeps import jobs, plugins, single
    from fmnist.team import exit_codes, is_follower


def train(cfg: DictConfig, folder: Path | None) -> float | None:
    """Train a single run, or one job of a sweep."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return jobs.run_job(cfg)
    with errors.speaking(), exit_codes():
        words = [word.lstrip("+") for word in HydraConfig.get().overrides.task]
        done = run.train(cfg, overrides=words, folder=folder)
        if not is_follower():
            from fmnist.summary import print_summary

            print_summary(done)
    return None


def main() -> None:
    with errors.speaking():
        _main()


def _main() -> None:
    with exit_codes():
        is_trial, is_trusting, folder = _take_flags()
    args = get_args_parser().parse_args()
    if args.help and not args.overrides and not args.config_dir:
        print(help_text())
        return
    trust = is_trusting or consent.is_given()  # by what started this process
    with exit_codes(), consent.given(trust):
        if _prepare(args, is_trial, folder):
            plugins.register()
            task = functools.update_wrapper(functools.partial(train, folder=folder), train)
            with _held_back() if args.cfg or args.info or args.hydra_help else nullcontext():
                hydra.main(str(CONF_DIR), "train", version_base="1.3")(task)()


@contextmanager
def _held_back() -> Iterator[None]:
    """Print what Hydra shows when all of it is there: it takes a broken stdout for a bug."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        yield
    print(shown.getvalue(), end="")


def _take_flags() -> tuple[bool, bool, Path | None]:
    """Take --dry-run, --trust and --folder, which Hydra does not know, out of `sys.argv`."""
    given = sys.argv[1:]
    words: list[str] = []
    folders: list[str] = []
    for word in given:
        if words and words[-1] == "--folder":
            folders.append(word)
            words.pop()
        elif word.startswith("--folder="):
            folders.append(word.removeprefix("--folder="))
        elif word not in ("--dry-run", "--trust"):
            words.append(word)
    if len(folders) > 1 or words[-1:] == ["--folder"]:
        raise UsageError("--folder must be given once, as --folder runs/NAME.")
    folder = run.check_folder(folders[0]) if folders else None
    sys.argv[1:] = words
    return "--dry-run" in given, "--trust" in given, folder


def _prepare(args: Namespace, is_trial: bool, folder: Path | None) -> bool:
    """Check the command and hand it to Hydra in `sys.argv`; returns whether anything is left to do.

    Raises UsageError for a command that cannot be meant.
    """
    if args.config_name or args.config_path:
        raise UsageError("The root config is conf/train.yaml. Add groups with --config-dir.")
    if args.experimental_rerun:
        raise UsageError("Go on with a run by scripts/resume.py: no pickles are read here.")
    _check_display(args)
    config_dir = Path(args.config_dir) if args.config_dir else None
    asked = command.read_command(args.overrides, config_dir)
    if asked.is_sweep and not args.multirun:
        raise UsageError(f"{asked.varied[0]} has several values, which is a sweep: add -m.")
    started = launch.find()
    if started and asked.is_sweep:
        raise UsageError(
            f"-m must be one process, which runs the jobs of the sweep, got {started.words}. Type "
            "it without: with trainer=ddp each job starts its own processes."
        )
    if asked.is_sweep and folder:
        raise UsageError(f"--folder {folder} is for one run: leave it out, or -m and its axes.")
    if single.is_for_slurm(asked) and not asked.is_sweep:
        _submit(args, asked, is_trial, folder)
        return False
    if is_trial and not asked.is_sweep:
        if not is_follower():
            print(run.preview(asked.cfg, asked.typed, folder))
        return False
    flags = [word for word in sys.argv[1:] if word not in args.overrides]
    if not asked.is_sweep:  # -m without an axis is a single run
        flags = [word for word in flags if word not in ("-m", "--multirun")]
    sys.argv[1:] = [*flags, *asked.overrides, *["++hydra.sweeper.dry_run=true"] * is_trial]
    return True


def _check_display(args: Namespace) -> None:
    """Raise UsageError for options of Hydra's that show a config where they show none."""
    if args.cfg and args.multirun:
        raise UsageError("--cfg shows the config of one run: leave out -m and its axes.")
    for name in ("resolve", "package"):
        if getattr(args, name) and not args.cfg:
            raise UsageError(f"--{name} goes with --cfg, as in --cfg job --{name}.")


def _submit(args: Namespace, asked: command.Command, is_trial: bool, folder: Path | None) -> None:
    if not args.multirun:
        raise UsageError("A launcher is for -m: add it to submit this run as a SLURM job.")
    if folder:
        raise UsageError(f"--folder {folder} is for the job itself: use name={folder.name}.")
    with errors.answering():
        single.submit(asked, args.overrides, is_trial)


if __name__ == "__main__":
    main()
