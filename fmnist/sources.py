"""Obtain and verify the four Fashion-MNIST idx files.

The hash of the unpacked content is the only judge: of the data folder at every start, and of what
a folder, a mirror or a package gives. Files appear under their names whole and right or not at all.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fmnist import content, download, package, turns
from fmnist.content import SourceError
from fmnist.errors import UserError, clean

FILES: dict[str, str] = {  # raw file name -> sha256 of the unpacked file
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"
PACKAGE_DIR = "usr/share/datasets/fashion-mnist"
SYSTEM_DIR = Path("/") / PACKAGE_DIR
MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # torchvision's
)

_Take = Callable[[Iterable[str], Path], Iterator[str]]  # installs files, yields the name of each


def _tell(line: str) -> None:
    print(clean(line), file=sys.stderr, flush=True)  # a server chose some of its words


def obtain(
    data_dir: Path, source: Path | None = None, *, say: Callable[[str], None] = _tell
) -> str:
    """Bring the four verified files to `data_dir/FashionMNIST/raw` and name the source used."""
    raw = data_dir / "FashionMNIST" / "raw"
    if source is not None and (faults := content.search(source, FILES)[1]):
        raise UserError(
            "data.source must be a folder that holds the four Fashion-MNIST files, raw or .gz, got "
            f"{str(source)!r} ({_list(faults)}). Put them right or leave data.source out."
        )
    done = "data folder" if source is None else f"folder {source}"
    faults = _faults(raw)
    if not faults:
        return done
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with turns.turn(raw, say):
            if faults := _faults(raw):
                done = _gather(raw, faults, source, say)
            _tidy(raw)
        return done
    except OSError as error:
        raise UserError(
            "data.dir must be a folder that can be written, with 90 MB free, got "
            f"{str(data_dir)!r} ({error.filename or raw}: {error.strerror or error}), with "
            f"{_list(faults)}. Mend that or choose another folder with data.dir=DIR."
        ) from error


def verify(raw_dir: Path) -> None:
    """Hash the four files in `raw_dir` (0.05 s); raise UserError unless all are there and right."""
    if faults := _faults(raw_dir):
        raise UserError(
            f"data.dir must hold the four Fashion-MNIST files, got {str(raw_dir)!r} with "
            f"{_list(faults)}. Delete what is damaged and start again to get it anew, or name a "
            "folder that holds the files with data.source=DIR."
        )


def stamp(data_dir: Path) -> tuple[tuple[int, int, int], ...]:
    """Return inode, size and time of the four files: equal as long as nobody has touched them."""
    found = []
    for name in FILES:
        with contextlib.suppress(OSError):
            status = (data_dir / "FashionMNIST" / "raw" / name).stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


@contextlib.contextmanager
def unchanged(data_dir: Path) -> Iterator[None]:
    """Raise UserError, whatever else was raised, if the files were touched meanwhile."""
    before = stamp(data_dir)
    try:
        yield
    finally:
        if stamp(data_dir) != before:
            raise UserError(
                "data.dir must hold files that stay as they are while they are read, got others in "
                f"{str(data_dir)!r} meanwhile. Let nothing else write there and start again."
            )


def data_hash() -> str:
    """Return one hash that names the content of all four files."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(FILES.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _faults(raw: Path) -> dict[str, str]:
    """Say for each unpacked file that is not right what is wrong with it."""

    def fault(name: str) -> str:
        try:
            return content.mismatch(content.hash_file(raw / name), FILES[name])
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            raise UserError(
                f"data.dir must hold files that can be read, got {str(raw / name)!r} "
                f"({error.strerror}). Make it readable, delete it to get it anew, or choose "
                "another folder with data.dir=DIR."
            ) from error

    with ThreadPoolExecutor() as pool:
        return {n: f for n, f in zip(FILES, pool.map(fault, FILES), strict=True) if f}


def _list(faults: dict[str, str]) -> str:
    names = {fault: [n for n in faults if faults[n] == fault] for fault in faults.values()}
    return "; ".join(f"{', '.join(names[fault])} {fault}" for fault in names)


def _tidy(raw: Path) -> None:
    """Remove what ended processes left."""
    for name in FILES:
        for pattern in (f"{name}.gz.part*", f"{name}.*.tmp"):
            for path in turns.orphans(raw, pattern):
                with contextlib.suppress(OSError):  # a folder of that name does no harm
                    path.unlink()


def _gather(
    raw: Path, faults: dict[str, str], source: Path | None, say: Callable[[str], None]
) -> str:
    """Fill in the files at fault from the first sources that have them; name those sources."""
    for name, fault in faults.items():
        if fault != "missing":
            say(f"Data: {name} is {fault}; getting it again")
    tried, used = [f"data folder {raw}: {_list(faults)}"], []
    for label, take in _sources(raw, source, say):
        got = 0
        try:
            for _ in take(faults, raw):
                got += 1
        except SourceError as error:
            tried.append(f"{label}: {error}")
            say(f"Data: {tried[-1]}")
        if got:
            used.append(label)
            say(f"Data: got {got} of {len(FILES)} files from {label}")
        faults = _faults(raw)  # another process may have been quicker
        if not faults:
            return " and ".join(used or ["data folder"])
    raise UserError(
        "data.dir must hold the four Fashion-MNIST files, and no source gave them all:\n  "
        + "\n  ".join(tried)
        + f"\nCopy {', '.join(faults)} (raw or .gz) into {raw}, or name a folder that holds the "
        "four files with data.source=DIR or the variable FMNIST_SYSTEM_DIR, or install them with "
        f"'apt-get install {PACKAGE}', or, behind a proxy, set https_proxy and http_proxy."
    )


def _sources(
    raw: Path, source: Path | None, say: Callable[[str], None]
) -> Iterator[tuple[str, _Take]]:
    """Yield the name of each source in turn and the function that takes files from it."""
    if source is not None:
        yield f"folder {source}", partial(_copy, source)
        return
    if any(raw.glob("*.gz")):  # torchvision leaves them
        yield "data folder", partial(_copy, raw)
    system = Path(os.environ.get("FMNIST_SYSTEM_DIR") or SYSTEM_DIR)
    yield f"system copy {system}", partial(_copy, system)
    say("Data: downloading (30 MB)")
    patience = download.Patience()
    for url in MIRRORS:
        yield f"mirror {url}", partial(_download, url, patience)
    say("Data: downloading the operating system's package (40 MB)")
    yield f"apt package {PACKAGE}", _unpack_package


def _copy(folder: Path, names: Iterable[str], raw: Path) -> Iterator[str]:
    """Install what `folder` has of the files `names`."""
    found, faults = content.search(folder, {name: FILES[name] for name in names})
    for name, path in found.items():
        content.install(path, raw / name, FILES[name])
        yield name
    if faults:
        empty = not found and set(faults.values()) == {"missing"}
        raise SourceError("none of the files is there" if empty else _list(faults))


def _download(
    url: str, patience: download.Patience, names: Iterable[str], raw: Path
) -> Iterator[str]:
    """Install the files `names` from one mirror, up to the first that it cannot give."""
    for name in names:
        install = partial(content.install, target=raw / name, digest=FILES[name])
        download.fetch(f"{url}{name}.gz", raw / f"{name}.gz", install, patience)
        yield name


def _unpack_package(names: Iterable[str], raw: Path) -> Iterator[str]:
    """Install the files `names` from the operating system's package."""
    with package.unpacked(PACKAGE) as folder:
        yield from _copy(folder / PACKAGE_DIR, names, raw)
