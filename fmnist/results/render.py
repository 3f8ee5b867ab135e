"""Write what is rendered from docs/results.json: the headers, the page and its figures."""

from pathlib import Path

from fmnist import record
from fmnist.messages import CONF_DIR
from fmnist.results import headers, page, plan
from fmnist.results.store import Results

DOCS = CONF_DIR.parent / "docs"


def texts(results: Results, conf: Path = CONF_DIR, docs: Path = DOCS) -> dict[Path, str]:
    """Return what each text file has to hold."""
    names = plan.experiments(conf)
    files = [conf / "experiment" / f"{name}.yaml" for name in names]
    older = plan.older(results, names)
    made = {
        path: headers.update(path, results.experiments.get(path.stem), path.stem in older)
        for path in files
    }
    return made | {docs / "results.md": page.render(results, names, older)}


def write(results: Results, conf: Path = CONF_DIR, docs: Path = DOCS) -> list[Path]:
    """Write the files that are to change, and the figures; returns them."""
    written = []
    for path, text in texts(results, conf, docs).items():
        if not path.exists() or path.read_bytes() != text.encode():
            record.write_atomically(path, text)
            written.append(path)
    return [*written, *_draw(results, plan.experiments(conf), docs)]


def _draw(results: Results, names: list[str], docs: Path) -> list[Path]:
    from fmnist import figures
    from fmnist.results import charts

    drawn = {docs / "results.png": charts.accuracy_and_time(results, names)}
    if results.ablation:
        drawn[docs / "ablation.png"] = charts.ingredients(results.ablation)
    for path, figure in drawn.items():
        figures.save(figure, path)
    return list(drawn)
