"""Config files and command lines that mean harm: nothing runs, nothing leaks, nothing hangs."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import PROJECT, Run
from omegaconf import OmegaConf

from fmnist import config, consent, record, resolving, revival, run
from fmnist.command import points, read_command
from fmnist.errors import UsageError
from fmnist.groups import MAX_FILES

CALL = "{_target_: torch.utils.collect_env.run, command: 'touch called'}"
CALL_WORD = "{_target_: torch.utils.collect_env.run}"


def refused(*words: str, folder: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        read_command(words, folder)
    return str(caught.value)


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    folder = tmp_path / "groups"
    for name in ("experiment", "sweep", "model"):
        (folder / name).mkdir(parents=True)
    return folder


def experiment(folder: Path, text: str) -> str:
    """Write conf/experiment/mine.yaml and return what refuses it."""
    (folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n", "utf-8")
    return refused("experiment=mine", folder=folder)


def preset(folder: Path, text: str) -> str:
    head = "# @package _global_\ndefaults:\n  - override /hydra/sweeper: grid\nhydra:\n  sweeper:\n"
    (folder / "sweep" / "mine.yaml").write_text(head + text, "utf-8")
    return refused("sweep=mine", folder=folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"hydra: {{callbacks: {{x: {CALL}}}}}", "hydra.callbacks.x._target_ is set by fmnist"),
        (
            "hydra: {job_logging: {formatters: {x: {(): os.system}}}}",
            "hydra.job_logging.formatters.x.() is set by fmnist itself, got 'os.system'.",
        ),
        ("hydra: {hydra_logging: {version: 2}}", "hydra.hydra_logging.version is set by fmnist"),
        ("hydra: {job: {env_copy: [HOME]}}", "hydra.job.env_copy is set by fmnist itself"),
        ("hydra: {job: {env_set: {LD_PRELOAD: x.so}}}", "hydra.job.env_set.LD_PRELOAD is set by"),
        ("hydra: {job: {chdir: true}}", "hydra.job.chdir is set by fmnist itself, got True."),
        ("hydra: {run: {dir: /etc}}", "Name the folder with name=..."),
        ("hydra: {sweep: {dir: ../up}}", "hydra.sweep.dir is set by fmnist itself, got '../up'."),
        ("hydra: {sweep: {subdir: ../../up}}", "hydra.sweep.subdir is set by fmnist itself"),
        ("hydra: {launcher: {_target_: os.system}}", "got os.system."),
        (f"hydra: {{launcher: {{_target_: hydra_plugins.x.Y, x: [{CALL}]}}}}", "x._target_: noth"),
        ("hydra: {sweeper: {_target_: os.system}}", "hydra/sweeper must be grid | optuna"),
        ("trainer: {plugins: [{_target_: os.system}]}", "trainer.plugins is set by fmnist itself"),
        ("trainer: {strategy: {_target_: os.system}}", "trainer.strategy must be a text"),
        ("logger: {_target_: os.system}", "Unknown key logger._target_"),
        (f"callbacks: {{x: {CALL}}}", "Unknown key callbacks.x"),
        ("optim: {optimizer: {_target_: os.system}}", "Unknown optim.optimizer._target_"),
        ("optim: {schedule: {_target_: os.system}}", "Unknown optim.schedule._target_"),
        (f"note: {CALL}", "note must be a text or null"),
        (f"model: {{_target_: torch.nn.Linear, x: {CALL}}}", "model.x._target_: an argument of"),
        (f"model: {{_target_: torch.nn.Linear, x: [[{CALL}]]}}", "nothing is called for it"),
        ("model: {_target_: torch.nn.Linear, _partial_: true}", "model._partial_: an argument"),
        ("model: {_partial_: true}", "Unknown key model._partial_"),
        ("note: !!python/object/apply:os.system [id]", "is not valid YAML"),
        ("note: !!python/object/apply:pathlib.PosixPath [/etc]", "a mapping, got PosixPath."),
        (
            "note: !!binary aGVsbG8=",
            "note must be a text, a number, a list or a mapping, got bytes",
        ),
        ("model: {_target_: torch.nn.Linear, x: {1: 2}}", "A key of model.x must be a text, got 1"),
        ('note: "\\e[2J"', r"note must be a text without control characters, got '\x1b' in it."),
        ('note: "\\ud800"', "control characters, got '\\ud800' in it"),
        ("seed: 0x" + "f" * 5000, "seed must be a number of at most 64 bits, got a larger one."),
        ("note: " + "[" * 300 + "]" * 300, "nested at most 50 levels deep"),
        ("note: " + "[" * 2000 + "]" * 2000, "nested at most 50 levels deep"),
        ("model: {x: '${model}'}", "Interpolation to parent node detected"),
        ("defaults: [mine]", "include no file within itself"),
        ("note: '${oc.env:HOME}'", "reads the environment variable 'HOME', which only the command"),
        ("name: x${oc.env:HOME,none}", "reads the environment variable 'HOME'"),
        ("note: '${oc.${seed}:HOME}'", "The name of a resolver must be a string"),
        ("note: '${oc.decode:\"${oc.env:HOME}\"}'", "reads the environment variable 'HOME'"),
        ("model: {a: env, b: '${oc.${model.a}:HOME}'}", "reads the environment variable 'HOME'"),
        ("defaults:\n  - override /model: ${oc.env:HOME}", "reads the environment variable 'HOME'"),
        ("note: '${hydra:job.env_set.HOME}'", "The config does not resolve"),
        ("defaults:\n  - override /model: ../optim/adam", "Unknown choice"),
        ("a: {b}\n\tc: 1", "is not valid YAML"),
    ],
)
def test_a_config_file_calls_nothing_and_reads_no_secret(
    groups: Path, text: str, message: str
) -> None:
    assert message in experiment(groups, text)


@pytest.fixture
def evil(workdir: Path, groups: Path) -> Path:
    """Groups of a class in the folder of here, by a file of model and by files of experiment."""
    Path("evilnet.py").write_text("from pathlib import Path\nPath('was-run').touch()\n")
    head = "# @package _global_\n"
    grid = head + "defaults: [override /hydra/sweeper: grid]\n"
    for place, text in (
        ("model/mine", "_target_: evilnet.Net\nwidth: 3\n"),
        ("experiment/named", head + "model: {_target_: evilnet.Net}\n"),
        ("experiment/chosen", head + "defaults: [override /model: mine]\n"),
        ("optim/odd", head + "defaults: [adam@optim]\nmodel: {_target_: evilnet.Net}\n"),
        ("sweep/axis", grid + "hydra: {sweeper: {params: {model: 'mlp,mine'}}}\n"),
        ("sweep/case", grid + "hydra: {sweeper: {cases: {a: [seed=1], b: [model=mine]}}}\n"),
        ("sweep/word", grid + "hydra: {sweeper: {params: {model._target_: evilnet.Net}}}\n"),
    ):
        file = groups / f"{place}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return groups


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=named"],
        ["experiment=named", "model=mlp"],
        ["experiment=chosen"],
        ["optim=odd"],
        ["seed=1,2", "experiment=named"],
        ["experiment=cnn,named"],
        ["sweep=axis"],
        ["sweep=case"],
        ["sweep=word"],
    ],
    ids=" ".join,
)
def test_a_class_that_a_file_names_of_its_own_accord_needs_trust(
    evil: Path, words: list[str]
) -> None:
    found = refused(*words, folder=evil)
    assert "model._target_=evilnet.Net is named by a file that was not chosen by mod" in found
    assert "add --trust" in found
    with consent.given(True):
        read_command(words, evil)
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["model=mine"],
        ["model=mine", "model.width=4,5", "sweep=axis"],
        ["model=mlp,mine"],
        ["model=mine", "experiment=chosen", "+model.more=1"],
        ["model._target_=evilnet.Net"],
        ["++model._target_=evilnet.Net", "experiment=named"],
        ["model._target_=torch.nn.Linear,evilnet.Net", "experiment=named"],
    ],
    ids=" ".join,
)
def test_a_class_that_is_typed_needs_no_trust(evil: Path, words: list[str]) -> None:
    read_command(words, evil)
    assert not Path("was-run").exists()


SITE = "defaults: [slurm]\nsetup: [module load x]\npython: py\n"


@pytest.fixture
def site(groups: Path) -> Path:
    """Groups with a launcher of a cluster and an experiment that chooses it by itself."""
    (groups / "hydra" / "launcher").mkdir(parents=True)
    (groups / "hydra" / "launcher" / "site.yaml").write_text(SITE)
    text = "# @package _global_\ndefaults: [override /hydra/launcher: site]\n"
    (groups / "experiment" / "chosen.yaml").write_text(text)
    return groups


@pytest.mark.parametrize("name", ["site", "slurm"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("setup", "[touch x]"), ("container", "[x]"), ("python", "evil"), ("extra", "['--uid=0']")],
)
def test_a_file_brings_no_shell_into_a_job(site: Path, name: str, key: str, value: str) -> None:
    body = f"hydra: {{launcher: {{{key}: {value}}}}}"
    (site / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{body}\n")
    found = refused("experiment=mine", f"hydra/launcher={name}", "seed=1,2", folder=site)
    assert f"hydra.launcher.{key} runs in the job and is set by a file" in found
    assert value.strip("[]") in found.replace('"', "'")
    assert "Type it, or keep it in a file of hydra/launcher" in found
    read_command(
        ["experiment=mine", f"hydra/launcher={name}", f"hydra.launcher.{key}={value}"], site
    )


def test_the_file_of_a_launcher_is_chosen_by_whoever_types(site: Path) -> None:
    assert "setup" not in read_command(["experiment=chosen"], site).hydra.launcher
    for words in (
        ["hydra/launcher=site"],
        ["hydra/launcher=site", "experiment=chosen", "seed=1,2"],
        ["hydra/launcher=site", "hydra.launcher.setup=[module load y]"],
        ["hydra/launcher=slurm", "hydra.launcher.extra=['--mem=1']"],
    ):
        read_command(words, site)


def test_a_choice_of_a_file_elsewhere_is_refused(groups: Path) -> None:
    (groups / "other.yaml").write_text("dropout: 0.1\n")
    assert refused("model=../other", folder=groups) == (
        "model=../other is no option: it names a file elsewhere."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("    params: 5\n", "hydra.sweeper.params must be a mapping or null, got 5."),
        ("    params: [seed]\n", "hydra.sweeper.params must be a mapping or null, got ['seed']."),
        ("    cases: 5\n", "hydra.sweeper.cases must be a mapping or null, got 5."),
        ("    cases: {a: {b: c}}\n", "hydra.sweeper.cases.a must be a list of overrides"),
        (f"    cases: {{a: [{CALL}]}}\n", "hydra.sweeper.cases.a._target_: nothing is called"),
        (f"    params: {{model.x: {CALL}}}\n", "params.model.x._target_: nothing is called"),
        ("    params: {note: '${oc.env:HOME}'}\n", "reads the environment variable 'HOME'"),
        ("    cases: {a: ['note=${oc.env:HOME}']}\n", "reads the environment variable 'HOME'"),
        ("    cases: {a: ['note=\\${oc.env:HOME}']}\n", "reads the environment variable 'HOME'"),
        ("    params: {seed: '${nope}'}\n", "hydra.sweeper.params does not resolve"),
        ("    cases: {a: ['${nope}']}\n", "hydra.sweeper.cases does not resolve"),
        (f"    params: {{+hydra.callbacks.x: '{CALL_WORD}'}}\n", "callbacks.x._target_ is set by"),
        (
            f"    cases: {{a: ['+hydra.callbacks.x={CALL_WORD}']}}\n",
            "callbacks.x._target_ is set b",
        ),
        ("    params: {hydra.sweep.dir: up}\n", "hydra.sweep.dir is set by fmnist itself"),
        ("    params: {experiment: evil}\n", "hydra.job.chdir is set by fmnist itself"),
        ("    params: {experiment: 'mlp,evil'}\n", "hydra.job.chdir is set by fmnist itself"),
        ("    cases: {a: [], b: [experiment=evil]}\n", "hydra.job.chdir is set by fmnist itself"),
    ],
)
def test_a_preset_calls_nothing_and_reads_no_secret(groups: Path, text: str, message: str) -> None:
    evil = "# @package _global_\nhydra: {job: {chdir: true}}\n"
    (groups / "experiment" / "evil.yaml").write_text(evil)
    assert message in preset(groups, text)


def test_what_is_typed_may_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/data")
    command = read_command(["data.dir=${oc.env:WHERE}", "note='${oc.env:NONE,x}'", "seed=1,2"])
    checked = [found for _, found in points(command)]
    assert [(c["data"]["dir"], c["note"]) for c in checked] == [("/data", "x")] * 2


def test_elsewhere_the_resolver_is_as_omegaconf_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/data")
    refused("note=${nope}")
    assert OmegaConf.create({"a": "${oc.env:WHERE}"}).a == "/data"


def test_a_record_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made it typed its overrides, not who reads it."""
    monkeypatch.setenv("SECRET", "hunter2")
    recorded = config.settle(config.check(config.compose()))
    lacking = {key: value for key, value in recorded.items() if key != "note"}
    data = {"config": lacking, "overrides": ["note=${oc.env:SECRET}"]}
    revived = revival.revive(record.Record(Path("runs/a"), data))
    assert "hunter2" not in json.dumps(revived.config)
    assert "hunter2" not in str(config.defaults(["note=${oc.env:SECRET}"]))


def test_a_yaml_bomb_is_counted_not_built(groups: Path) -> None:
    lines = ["model:", "  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    assert "must stand for at most 100,000 values" in experiment(groups, "\n".join(lines))
    assert "must stand for at most" in experiment(groups, "model: &a {x: [*a]}")


@pytest.mark.parametrize(
    "form", ['["${{model.a{i}}}", "${{model.a{i}}}"]', '"${{model.a{i}}}${{model.a{i}}}"']
)
def test_references_cannot_grow_without_bound(groups: Path, form: str) -> None:
    lines = ["model:", "  a0: x", *(f"  a{i + 1}: {form.format(i=i)}" for i in range(40))]
    message = experiment(groups, "\n".join(lines))
    assert message == "A config must hold at most 30 references (${...}), got 80. Write the values."


def test_references_to_something_large_are_bounded() -> None:
    many = {"a": list(range(20_000)), "b": ["${a}"] * 9}
    with pytest.raises(UsageError, match="A config must hold at most 100,000 values, got more"):
        resolving.resolve(many)
    assert resolving.resolve({"a": [1], "b": ["${a}", "${a}"]})["b"] == [[1], [1]]


def test_files_that_are_none_are_refused(groups: Path) -> None:
    pipe = groups / "model" / "pipe.yaml"
    os.mkfifo(pipe)
    assert refused("foo=1", folder=groups).endswith(
        "must be a file of text, as its name ends in .yaml."
    )
    pipe.unlink()
    (groups / "model" / "large.yaml").write_text("x: " + "y" * 100_000)
    assert "must have at most 100,000 bytes, got 100,003" in refused("foo=1", folder=groups)


def test_loops_of_links_and_files_that_cannot_be_read_harm_nobody(groups: Path) -> None:
    (groups / "model" / "loop").symlink_to(groups)
    (groups / "model" / "self.yaml").symlink_to(groups / "model" / "self.yaml")
    (groups / "model" / "gone.yaml").symlink_to("nowhere.yaml")
    (groups / "model" / "folder.yaml").mkdir()
    (groups / "experiment" / "mine.yaml").write_text("# @package _global_\nfoo: 1\n")
    assert read_command(["seed=3"], groups).cfg.seed == 3
    assert "Unknown key foo in groups/experiment/mine.yaml" in refused(
        "experiment=mine", folder=groups
    )
    for name in ("self", "gone", "folder"):
        assert name in refused(f"model={name}", folder=groups)


def test_a_folder_of_everything_is_no_config_folder(tmp_path: Path) -> None:
    for i in range(MAX_FILES + 1):
        (tmp_path / f"{i}.txt").touch()
    assert f"with more than {MAX_FILES} files" in refused("seed=1", folder=tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweep.dir=/tmp/x", "seed=0,1"], "hydra.sweep.dir is set by fmnist itself"),
        (["hydra.sweep.subdir=../../x", "seed=0,1"], "Name the folder with name=..."),
        (["hydra.run.dir=/tmp"], "hydra.run.dir is set by fmnist itself, got '/tmp'."),
        (["hydra.output_subdir=x"], "run.json holds the config."),
        (["hydra.searchpath=[file:///tmp]"], "Add config groups with --config-dir."),
        (["+hydra.searchpath=[pkg://os]"], "hydra.searchpath is set by fmnist"),
        (["hydra/job_logging=default"], "is set by fmnist itself"),
        (["+hydra.callbacks.x._target_=os.system"], "hydra.callbacks.x._target_ is set by fmnist"),
        (["hydra.launcher._target_=os.system"], "hydra/launcher must be local | pool or an inst"),
        (["hydra.launcher=null"], "got None."),
        (["hydra.sweeper=null"], "hydra/sweeper must be grid | optuna, got None."),
        (["hydra.sweeper=5"], "hydra/sweeper must be grid | optuna, got None."),
        (["hydra.job.env_copy=[NONE]"], "Key 'NONE' is missing."),
        (["+hydra.foo=1"], "hydra.foo is set by fmnist itself, got 1. Leave it out."),
        (["seed=range(0,1000000000)"], "seed must have at most 10,000 values, got 1,000,000,000."),
        (["seed=range(0,10,0)"], "seed=range(0,10,0) must be a range of finite ends and a step."),
        (["seed=range(0,inf)"], "must be a range of finite ends and a step."),
        (["seed=range(200)", "data.split_seed=range(200)"], "at most 10,000 jobs, got 40,000."),
        (["seed=" + "9" * 5000], "Cannot read 'seed=999"),
        (["note=" + "[" * 3000 + "]" * 3000], "Cannot read 'note=[[["),
        (["note=" + "x" * 30_000], "An override must have at most 20,000 characters"),
        (["model.channels=[" + "1," * 2000 + "1]"], "and 1,000 commas, got model.channels=[1,1,1"),
        (["data.dir='\x00'"], "data.dir must be a text without control characters"),
        (["note='\udcff'"], "note must be a text without control characters"),
        (["hydra.sweep.dir='\x00'", "seed=1,2"], "hydra.sweep.dir is set by fmnist itself"),
        (["note=[" + "1," * 900 + "1]"], "note must be a text or null, got [1, 1, 1, 1"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_command_line_that_cannot_be_meant_is_refused(words: list[str], message: str) -> None:
    found = refused(*words)
    assert message in found
    assert len(found) < 500


def test_a_refusal_is_one_line_whatever_it_quotes(script: Run) -> None:
    done = script("train.py", "note='a\x1b[2J'", "seed=x")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
    done = script("train.py", "--experimental-rerun", "x.pickle")
    assert (
        done.stderr == "Error: Go on with a run by scripts/resume.py: no pickles are read here.\n"
    )


PLANTED = {
    "hydra_plugins/planted.py": "open('was-run', 'w')\n",
    "planted-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n",
    "planted-1.0.dist-info/entry_points.txt": "[torch.backends]\nplanted = plantedmod:load\n",
    "plantedmod.py": "open('was-run', 'w')\ndef load(): pass\n",
}


@pytest.fixture
def planted(workdir: Path) -> Path:
    """A folder with what Hydra and torch would run where it is on Python's path."""
    for name, text in PLANTED.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    return workdir


def test_nothing_runs_by_lying_in_the_folder_of_here(planted: Path, script: Run) -> None:
    done = script("train.py", "--dry-run")
    assert (done.returncode, Path("was-run").exists()) == (0, False), done.stderr


def test_no_package_brings_code_into_torch(planted: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{planted}:{PROJECT}"}
    environment.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)
    code = [sys.executable, "-c", "import fmnist, torch"]
    subprocess.run(code, check=True, env=environment)
    assert not Path("was-run").exists()


@pytest.mark.slow
def test_no_script_runs_what_lies_in_the_folder_of_here(
    small_data: Path, planted: Path, script: Run
) -> None:
    words = ["model=mlp", "trainer=cpu", "figures=none", "logger=none", "data.batch_size=50"]
    place = run.train([*words, "data.val_size=100", "trainer.max_epochs=1", "name=a"]).folder
    Path("a.pgm").write_bytes(b"P5 28 28 255 " + bytes(784))
    for name, *more in (
        ("resume.py",),
        ("eval.py", "--split", "val"),
        ("predict.py", "a.pgm"),
        ("export.py", "--format", "torch_export"),
    ):
        done = script(name, str(place), *more)
        assert (done.returncode, Path("was-run").exists()) == (0, False), done.stderr


def test_reading_a_command_starts_no_thread_and_writes_nothing(workdir: Path, groups: Path) -> None:
    before = sorted(workdir.rglob("*")), threading.active_count()
    read_command(["seed=1,2"], groups)
    assert (sorted(workdir.rglob("*")), threading.active_count()) == before


def test_errors_that_cause_each_other_are_looked_through_once() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__context__ = other, one
    assert resolving.told(one) is None
    mine = UsageError("mine")
    other.__cause__ = mine
    assert resolving.told(one) is mine
