"""A single run as a SLURM job: `train.py -m hydra/launcher=slurm` without an axis."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fmnist import config as configs
from fmnist import consent, record, run
from fmnist.command import Command
from fmnist.errors import UserError
from fmnist.sweeps import plan, slurm
from fmnist.sweeps.script import Line
from fmnist.sweeps.slurm import Submitter


def is_for_slurm(asked: Command) -> bool:
    """Say whether hydra/launcher=slurm, or a site's copy of it, was chosen."""
    return str(asked.hydra.launcher._target_).endswith(".SlurmLauncher")


def submit(asked: Command, words: Sequence[str], is_trial: bool) -> None:
    """Submit the run that `asked` is, unless it is done; `words` is what was typed after train.py.

    A run without a name gets one from the time. With `is_trial` the script is printed instead.
    Raises SystemExit with 1 where it was waited for and failed.
    """
    config = configs.settle(configs.check(asked.cfg, asked.typed, asked.folders))
    place = _place(config, is_trial)
    config_dir = asked.folders[1] if len(asked.folders) > 1 else None
    name = [] if config["name"] else [f"name={place.name}"]
    again = slurm.again(config_dir, [*words, *name])
    settings = {k: v for k, v in asked.hydra.launcher.items() if k != "_target_"}
    line = Line(asked.typed, place, config_dir, consent.is_given())
    with slurm.no_empty_folder(place):
        submitter = Submitter(place, settings, asked.cfg.trainer, again)
        is_done = record.decide(place, config, asked.typed, configs.defaults) == "finished"
        if is_trial:
            print(run.preview(asked.cfg, asked.typed), file=sys.stderr)
            for text in submitter.preview([] if is_done else [line]):
                print(text, end="")
            return
        receipt = None if is_done else submitter.submit([line])
    if receipt:
        print("\n".join(receipt.lines()), flush=True)
        if not settings["wait"]:
            return
        slurm.wait(place)
    _show(place)


def _place(config: dict[str, object], is_trial: bool) -> Path:
    if config["name"]:
        return run.RUNS / record.short(str(config["name"]))
    if is_trial:
        return run.RUNS / "TIME"
    model = config["model"]
    assert isinstance(model, dict)
    return record.claim(run.RUNS, None, str(model["_target_"]).rpartition(".")[2])


def _show(place: Path) -> None:
    from fmnist.summary import print_summary

    now = plan.state(place)
    if not now.has_ended:
        raise UserError(f"{place} is {now.status}: {now.error or 'see its log in .slurm'}")
    print_summary(record.read(place))
