"""Let every process that is started with an environment take the small data for Fashion-MNIST."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATCH = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {project!r}]
import small
from fmnist import sources
del sys.path[:2]
sources.FILES.clear()
sources.FILES.update(small.checksums(Path({files!r})))
"""


def environment(folder: Path, files: Path, project: Path = HERE.parent) -> dict[str, str]:
    """Return variables for processes that Python sets up with `files`; makes `folder`/setup.

    They import fmnist from `project`.
    """
    setup = folder / "setup"
    setup.mkdir(exist_ok=True)
    text = PATCH.format(tests=str(HERE), project=str(project), files=str(files))
    (setup / "sitecustomize.py").write_text(text)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(setup), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        "FMNIST_SYSTEM_DIR": str(files),
        "FMNIST_DATA": str(folder / "data"),
        "COLUMNS": "100",
    }
