"""How Optuna draws values and prunes, whatever has been drawn in this process before."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from fmnist.axes import Axis
from fmnist.seeds import derive

FEW_DIGITS = 4  # significant digits of a proposed number


class SeededSampler(BaseSampler):
    """Draws the values of a trial from (seed, trial number, key) and the trials before it.

    A sampler of its own for each draw: what a process drew earlier has no influence. Real numbers
    are rounded to 4 significant digits, within their bounds.
    """

    def __init__(self, seed: int, settings: Mapping[str, Any]) -> None:
        self.seed = seed
        self.settings = settings

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._make(trial, "").infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._make(trial, "").sample_relative(study, trial, search_space)
        return {name: _round(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._make(trial, param_name)
        drawn = sampler.sample_independent(study, trial, param_name, param_distribution)
        return _round(drawn, param_distribution)

    def _make(self, trial: FrozenTrial, key: str) -> BaseSampler:
        seed = derive(self.seed, "trial", trial.number, key) % 2**32
        if self.settings["sampler"] == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():  # some arguments are called experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, n_startup_trials=self.settings["n_startup_trials"])


def make_pruner(settings: Mapping[str, Any], max_epochs: int) -> BasePruner:
    if settings["pruner"] == "median":
        return MedianPruner(settings["n_warmup_trials"], settings["n_warmup_epochs"])
    if settings["pruner"] == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)
    return NopPruner()


def suggest(trial: Trial, axis: Axis) -> str:
    """Draw a value, or return the one the trial has, as text."""
    if axis.kind == "choice":
        return str(trial.suggest_categorical(axis.key, axis.values))
    if axis.is_integer:
        low, high, step = int(axis.low), int(axis.high), int(axis.step)
        return str(trial.suggest_int(axis.key, low, high, step=step, log=axis.log))
    value = trial.suggest_float(axis.key, axis.low, axis.high, step=axis.step or None, log=axis.log)
    return f"{value:.10g}"


def _round(value: Any, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    rounded = float(f"{value:.{FEW_DIGITS}g}")
    return min(max(rounded, distribution.low), distribution.high)
