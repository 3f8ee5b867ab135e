"""Bring docs/results.json up to date: run experiments, or take what has been run, and keep it."""

from collections.abc import Callable, Mapping, Sequence

from fmnist import process
from fmnist.command import Command
from fmnist.errors import UsageError, UserError
from fmnist.results import collect, plan, rerun
from fmnist.results.store import Ablation, Entry, Results

Say = Callable[[str], None]


def measure(results: Results, names: Sequence[str], say: Say) -> tuple[Results, bool]:
    """Run the experiments `names`, or all that fit this machine, and take in their results.

    Where there is a GPU, only what needs one fits: CPU rows are not overwritten by a GPU's. Returns
    the results and whether all went well; what did not is said. Raises UsageError, before anything
    starts, for a name that is none, one that does not fit, or a tree with changes.
    """
    commands = {name: plan.read(name) for name in plan.choose(names, plan.experiments())}
    rerun.check_tree()
    has_gpu = process.has_gpu()
    fit = {name: command for name, command in commands.items() if plan.fits(command, has_gpu)}
    unfit = [name for name in commands if name not in fit]
    if unfit and names:
        raise UsageError(f"{', '.join(unfit)}: {_remedy(has_gpu, ' '.join(unfit))}")
    for name in unfit:
        say(f"{name}: skipped. {_remedy(has_gpu, name)}")
    for name, command in fit.items():
        rerun.check_runs(name, plan.jobs(command))
    failed = False
    for name in fit:
        say(f"{name}: {plan.command_line(name)}")
        failed |= not rerun.run(name)
    found, is_whole = _collect(results, fit, say)
    return found, is_whole and not failed


def take(results: Results, names: Sequence[str], say: Say) -> tuple[Results, bool]:
    """Take in what the runs in sweeps/results-* measured; returns and raises as `measure` does."""
    chosen = plan.choose(names, plan.experiments())
    rerun.check_untracked()  # the hash of the recipe would be of a file that the commit lacks
    there = [name for name in chosen if names or collect.has_runs(name)]
    if not there:
        raise UserError("There is nothing to collect: no sweeps/results-* here holds runs.")
    return _collect(results, {name: plan.read(name) for name in there}, say)


def _remedy(has_gpu: bool, names: str) -> str:
    line = f"make results ARGS={names}" if " " not in names else f'make results ARGS="{names}"'
    if has_gpu:
        return (
            "It is recorded on a CPU, and the GPU of this machine would train it. Where there is "
            f"none, or with it hidden: CUDA_VISIBLE_DEVICES= {line}"
        )
    return f"It needs a GPU, and there is none here. Where there is one: {line}"


def _collect(results: Results, commands: Mapping[str, Command], say: Say) -> tuple[Results, bool]:
    entries: dict[str, Entry] = {}
    ablation: Ablation | None = None
    is_whole = True
    for name, command in commands.items():
        try:
            if name == plan.ABLATION:
                ablation = collect.collect_ablation(command)
            else:
                entries[name] = collect.collect(name, command)
        except UserError as error:
            say(f"Error: {name} is not recorded: {error}")
            is_whole = False
    return results.replaced(entries, ablation), is_whole
