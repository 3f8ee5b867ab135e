"""Write docs/licences.md from what is installed: `python scripts/licences.py`.

Which licence each dependency of pyproject.toml has by its own metadata. Deterministic.
"""

import argparse
from pathlib import Path

from fmnist import licences
from fmnist.errors import exit_codes
from fmnist.record import write_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with exit_codes():
        write_atomically(PAGE, licences.page(PAGE.parents[1] / "pyproject.toml"))
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
