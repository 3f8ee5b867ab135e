"""The benchmark under way: contestants in turn, round after round, and what is known so far."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from fmnist.bench.contestants import Contestants, Task
from fmnist.bench.process import ContestantError
from fmnist.bench.results import Results, Sample, Series
from fmnist.bench.settings import CONTESTANTS, Settings

Play = Callable[[Path], Sample]  # measures once, in an empty folder
WITH_LOADER = ("pytorch", "lightning")


class Bench:
    """Plays rounds in `folder` and collects `results`.

    `absent` says of contestants what they lack, `say` is told the progress, `save` is called
    whenever a case is complete.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        absent: Mapping[str, str],
        say: Callable[[str], None],
        save: Callable[[Results], None],
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.absent = absent
        self.say = say
        self.save = save
        self.contestants = Contestants(settings, folder / "split.npz")
        self.results = Results()
        self._num_workers: dict[int, dict[str, int]] = {}

    @property
    def names(self) -> list[str]:
        """Return the contestants that can start."""
        return [name for name in self.settings.contestants if name not in self.absent]

    def play(
        self,
        measure: str,
        case: str,
        plays: Mapping[str, Play],
        shown: str = "wall_s",
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Let `plays` measure in turn; one that fails sits out the remaining rounds.

        `shown` is the value that the progress tells, in seconds where its name ends in _s.
        """
        found = {name: Series(note=(notes or {}).get(name, "")) for name in plays}
        self.results.cases[case] = found
        rounds = self.settings.rounds_of(measure)
        for i in range(rounds):
            order = list(plays.items())  # the other way in every second round: who follows whom
            for name, play in order[:: 1 if i % 2 == 0 else -1]:
                if not found[name].error:
                    said = self._once(play, found[name], shown)
                    self.say(f"{case}, round {i + 1} of {rounds}, {name}: {said}")
        self.save(self.results)

    def play_contestants(
        self,
        measure: str,
        task: Task,
        *,
        case: str = "",
        shown: str = "wall_s",
        others: Mapping[str, Play] | None = None,
    ) -> None:
        """Let all contestants carry out `task`, each with the workers that suit it best.

        `others` measure in place of a contestant of their name, or beside it.
        """
        workers = self.num_workers(task.batch_size) if task.num_workers is None else {}

        def play(name: str) -> Play:
            mine = task._replace(num_workers=workers.get(name, 0))
            return lambda place: self.contestants.train(name, mine, place)

        plays = {name: play(name) for name in self.names}
        plays |= {n: p for n, p in (others or {}).items() if n in plays or n not in CONTESTANTS}
        notes = {name: f"num_workers={count}" for name, count in workers.items()}
        self.play(measure, case or measure, plays, shown, notes)
        for name, lacks in self.absent.items():
            if name in self.settings.contestants:
                self.results.cases[case or measure][name] = Series(note=lacks)

    def num_workers(self, batch_size: int) -> dict[str, int]:
        """Return for each contestant with a DataLoader the number of processes it is fastest with.

        Found once per batch size, by two epochs with each number; the second counts.
        """
        if batch_size not in self._num_workers:
            names = [name for name in WITH_LOADER if name in self.names]
            self._num_workers[batch_size] = {n: self._try_workers(n, batch_size) for n in names}
        return self._num_workers[batch_size]

    def _try_workers(self, name: str, batch_size: int) -> int:
        tried: dict[int, float] = {}
        counts = self.settings.num_workers
        if len(counts) == 1:
            return counts[0]
        for count in counts:
            task = Task(epochs=2, batch_size=batch_size, num_workers=count)
            with suppress(ContestantError), self.place() as place:
                sample = self.contestants.train(name, task, Path(place))
                tried[count] = sample["epoch_s"]
                said = f"{count} workers take {tried[count]:.2f} s an epoch"
                self.say(f"batch {batch_size}, {name}: {said}")
                case = self.results.cases.setdefault(f"workers-{batch_size}", {})
                case.setdefault(f"{name}, {count}", Series()).samples.append(sample)
        return min(tried, key=lambda count: tried[count]) if tried else 0

    def place(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)

    def _once(self, play: Play, series: Series, shown: str) -> str:
        try:
            with self.place() as place:
                sample = play(Path(place))
        except ContestantError as error:
            series.error = str(error)
            return f"failed: {error}"
        series.samples.append(sample)
        value = sample.get(shown)
        unit = " s" if shown.endswith("_s") else ""
        return "done" if value is None else f"{value:.2f}{unit}"
