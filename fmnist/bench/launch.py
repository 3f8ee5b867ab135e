"""Run a script of ours as a user would, and note when its training began.

python -m fmnist.bench.launch [--own-data] train.py OVERRIDES

The moments of the first batch and of the end of the first step (time.monotonic()) follow as JSON in
the last line of stdout. Nothing is imported earlier or later than without this.
"""

import argparse
import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls `act` with the module `name` as soon as it has been imported."""

    def __init__(self, name: str, act: Callable[[Any], None]) -> None:
        self.name = name
        self.act = act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.act(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own-data", action="store_true", help="take $FMNIST_DATA's files as good")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    moments: dict[str, float] = {}
    watch_batches(moments)
    if args.own_data:
        trust_data(Path(os.environ["FMNIST_DATA"]))
    script = SCRIPTS / args.words[0]
    sys.argv = [str(script), *args.words[1:]]
    sys.path[0] = str(SCRIPTS)
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        print(json.dumps(moments), flush=True)


def watch_batches(moments: dict[str, float]) -> None:
    """Note in `moments` when the first batch of this process is drawn, and when the next one is."""

    def patch(data: Any) -> None:
        gather = data.Batches.gather

        def watched(*arguments: Any) -> Any:
            if "first_batch" in moments:
                moments.setdefault("first_step", time.monotonic())
            moments.setdefault("first_batch", time.monotonic())
            return gather(*arguments)

        data.Batches.gather = watched

    sys.meta_path.insert(0, AfterImport("fmnist.data", patch))


def trust_data(folder: Path) -> None:
    """Let the checksums be those of the files in `folder`: repeated data, small data in tests."""
    from fmnist import sources

    for name in sources.FILES:
        with (folder / "FashionMNIST" / "raw" / name).open("rb") as file:
            sources.FILES[name] = hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
