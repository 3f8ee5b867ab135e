"""SLURM's commands as small programs that answer from files, for tests without a cluster."""

import stat
from pathlib import Path

import pytest

PROGRAM = """#!/bin/sh
printf '%s\\n' "{name} $*" >> '{folder}/calls'
env > '{folder}/{name}.env'
[ "{name}" = sbatch ] && cat > '{folder}/script' && echo "$(cat '{folder}/id');cluster"
[ -e '{folder}/{name}.err' ] && cat '{folder}/{name}.err' >&2 && exit 1
[ -e '{folder}/{name}.out' ] && cat '{folder}/{name}.out'
exit 0
"""


class FakeSlurm:
    """What the commands answer, and what they were asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "id").write_text("77")
        for name in ("sbatch", "squeue", "scontrol"):
            path = folder / name
            path.write_text(PROGRAM.format(name=name, folder=folder))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    def answers(self, name: str, text: str) -> None:
        (self.folder / f"{name}.out").write_text(text)

    def fails(self, name: str, text: str) -> None:
        (self.folder / f"{name}.err").write_text(text)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def variables(self, name: str) -> dict[str, str]:
        """Return the environment in which a command was called the last time."""
        text = (self.folder / f"{name}.env").read_text()
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
