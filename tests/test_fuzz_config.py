"""Random command lines and config files: each works or is refused by UsageError, no third way."""

import functools
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT
from fuzzing import Tally, counts, seed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from fmnist import config, resolving, schema
from fmnist import overrides as words
from fmnist.command import read_command
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR

pytestmark = pytest.mark.fuzz

GROUPS = [p.relative_to(CONF_DIR) for p in sorted(CONF_DIR.rglob("*.yaml")) if p.parent != CONF_DIR]
CHOICES = [f"{p.parent.as_posix()}={p.stem}" for p in GROUPS]
KEYS = [*schema.all_keys(), "hydra.sweeper.params", "hydra.sweeper.cases", "hydra.run.dir", "hydra"]
KEYS += [
    "hydra.callbacks",
    "hydra.job_logging",
    "hydra.launcher",
    "hydra.sweeper",
    "model.x.y",
    "x",
]
NASTY = [
    "",
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "nan",
    "-inf",
    "1_000",
    "0x10",
    "9" * 400,
    "???",
    "~",
]
NASTY += [
    "${oc.env:HOME}",
    "${name}",
    "${nope}",
    "${..}",
    "'${'",
    "\\${a}",
    "${oc.decode:1}",
    "${note}",
]
NASTY += ["[]", "{}", "[1,[2,{a: 3}]]", "{a: b}", "[" * 60 + "]" * 60, "a,b", "1,2,3", "range(3)"]
NASTY += [
    "interval(0,1)",
    "choice(1,2)",
    "glob(*)",
    "int(x)",
    "range(0,9,0)",
    "range(0,inf)",
    "shuffle(1)",
]
NASTY += [
    "'a b'",
    '"a\'b"',
    "'\n'",
    "'\x1b[0m'",
    "'\u202e'",
    "'<script>'",
    "'\udc80'",
    "../x",
    "/",
    "a=b",
]
NASTY += [
    "{_target_: os.system, command: id}",
    "os.system",
    "@",
    "#",
    "%s",
    "'\x00'",
    "cnn",
    "3",
    "0.5",
]

keys = st.one_of(st.sampled_from(KEYS), st.text("abmodelx._-/@+~ {}$[]0", max_size=12))
values = st.one_of(
    st.sampled_from(NASTY),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20),
    st.lists(st.sampled_from(NASTY), max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
    st.lists(st.sampled_from(NASTY), max_size=3).map(",".join),
)
overrides = st.one_of(
    st.tuples(st.sampled_from(["", "", "", "+", "++", "~"]), keys, values).map(
        lambda t: f"{t[0]}{t[1]}={t[2]}"
    ),
    st.sampled_from(CHOICES),
    st.text(max_size=15),
)
lines = st.lists(overrides, min_size=1, max_size=4)
plain: st.SearchStrategy[object] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(NASTY),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "_target_", "defaults"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def mode(number: int) -> settings:
    """Return settings under which the same seed gives the same inputs, and nothing is kept."""
    return settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def attempt(tally: Tally, shown: object, call: "functools.partial[object]") -> None:
    try:
        call()
        tally.add(refused=False)
    except UsageError as error:
        text = str(error)
        if not text or "Traceback" in text or len(text) > 3_000:
            tally.crash(f"{shown!r}: a message of {len(text)} characters: {text[:300]}")
        else:
            tally.add(refused=True)
    except Exception:
        tally.crash(f"{shown!r}: {traceback.format_exc(limit=-4)}")


def fuzz_words(tally: Tally, number: int, first: int) -> None:
    """Parse and check words as `command.points` does, in a config that is composed once."""
    base = config.compose()

    def check(word: str) -> None:
        (parsed,) = words.parse([word]) or [None]
        if parsed is None or parsed.is_sweep_override() or words.is_group(parsed):
            return
        words.normal(parsed)
        changed = base.copy()
        try:
            resolving.OmegaConf.update(changed, parsed.key_or_group, parsed.value(), force_add=True)
        except resolving.OmegaConfBaseException:
            return  # composing tells it, below
        config.check(changed, [word])

    @seeded(first)
    @mode(number)
    @given(overrides)
    def fuzz(word: str) -> None:
        attempt(tally, word, functools.partial(check, word))

    with words.composing():
        fuzz()


def fuzz_lines(tally: Tally, number: int, first: int) -> None:
    """Read whole command lines, composed anew each time."""

    @seeded(first)
    @mode(number)
    @given(lines)
    def fuzz(line: list[str]) -> None:
        attempt(tally, line, functools.partial(read_command, line))

    fuzz()


def fuzz_files(tally: Tally, number: int, first: int) -> None:
    """Read experiments and presets of a --config-dir: structured, and with bytes changed."""
    drawn = random.Random(first)
    with tempfile.TemporaryDirectory() as place:
        for group in ("experiment", "sweep"):
            (Path(place) / group).mkdir()

        @seeded(first)
        @mode(number)
        @given(st.dictionaries(keys, plain, max_size=4), st.sampled_from(["experiment", "sweep"]))
        def fuzz(values: dict[str, object], group: str) -> None:
            text = yaml.safe_dump(nested(values), allow_unicode=drawn.random() < 0.5).encode(
                errors="replace"
            )
            content = bytearray(b"# @package _global_\n" + text)
            for _ in range(drawn.choice([0, 0, 1, 3])):
                content[drawn.randrange(len(content))] = drawn.choice(
                    b"\x00\xff\t\n:-{}[]&*!%@'\"#| ${a"
                )
            path = Path(place) / group / "mine.yaml"
            path.write_bytes(bytes(content))
            call = functools.partial(read_command, [f"{group}=mine"], Path(place))
            attempt(tally, bytes(content), call)
            path.unlink()

        fuzz()


def nested(values: dict[str, object]) -> dict[str, object]:
    """Put `optim.lr` under `optim`, as a file does."""
    made: dict[str, object] = {}
    for key, value in values.items():
        *parts, last = key.split(".")
        place = made
        for part in parts:
            inner = place.setdefault(part, {})
            place = inner if isinstance(inner, dict) else made
        place[last] = value
    return made


def work(kind: str, number: int, first: int) -> Tally:
    tally = Tally(kind)
    FUZZERS[kind](tally, number, first)
    return tally


FUZZERS = {"words": fuzz_words, "lines": fuzz_lines, "files": fuzz_files}


@pytest.mark.parametrize(("kind", "base"), [("words", 9_500), ("lines", 400), ("files", 300)])
def test_every_config_works_or_is_refused(kind: str, base: int) -> None:
    shares = [(kind, counts(base) // 2, 2 * seed() + i) for i in range(2)]
    with Tally(kind) as tally, multiprocessing.get_context("spawn").Pool(2) as pool:
        for part in pool.starmap(work, shares):
            tally.num_tried += part.num_tried
            tally.num_refused += part.num_refused
            tally.crashes += part.crashes


def test_real_processes_end_with_a_line_or_an_answer() -> None:
    """The same through scripts/train.py: nothing but 0 or 2, no traceback, one line."""
    drawn = random.Random(seed())
    with Tally("processes") as tally, tempfile.TemporaryDirectory() as place:
        for _ in range(counts(24)):
            pairs = [f"{drawn.choice(KEYS)}={drawn.choice(NASTY)}" for _ in range(2)]
            line = [drawn.choice(CHOICES), drawn.choice(pairs)]
            line = [w.replace("\x00", "0") for w in line]
            done = start(
                [*line, *drawn.choice([["--cfg", "job"], ["--dry-run"], ["--dry-run", "-m"]])],
                place,
            )
            if done.returncode not in (0, 2) or b"Traceback" in done.stderr:
                tally.crash(
                    f"{line}: {done.returncode} {done.stderr.decode(errors='replace')[-500:]}"
                )
            else:
                tally.add(refused=done.returncode == 2)
        assert not list(Path(place).iterdir())


def start(line: Sequence[str], place: str) -> "subprocess.CompletedProcess[bytes]":
    script = [sys.executable, str(PROJECT / "scripts" / "train.py"), *line]
    return subprocess.run(
        [os.fsencode(word) if "\udc80" in word else word for word in script],
        cwd=place,
        capture_output=True,
        check=False,
        timeout=120,
    )
