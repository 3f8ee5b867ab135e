from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from fmnist.callbacks import Events


def read_events(folder: Path) -> Any:
    """Read events the way TensorBoard itself does."""
    events = EventMultiplexer().AddRunsFromDirectory(str(folder))
    events.Reload()
    return events


def test_points_of_an_attempt_that_was_lost_are_not_shown(tmp_path: Path) -> None:
    for first_step, steps in ((0, (1, 2)), (0, (1, 2, 3, 4)), (3, (3, 4)), (5, (5, 6))):
        events = Events(tmp_path, first_step)
        for step in steps:
            events.log_metrics({"lr": step / 10}, step)
        events.close()
    read = read_events(tmp_path)
    assert [event.step for event in read.Tensors(".", "lr")] == [1, 2, 3, 4, 5, 6]


def test_config_and_scores_are_one_session_without_a_list_of_columns(tmp_path: Path) -> None:
    config = {"seed": 1, "optim.lr": 1e-3, "model.init": "torch", "model.hidden": ""}
    odd = {"augment.flip": True, "trainer.precision": None, "model.channels": [32, 64]}
    events = Events(tmp_path, 0)
    events.log_config({**config, **odd}, {"val/acc": 0.5, "test/loss": 2.0}, step=7)
    events.close()
    read = read_events(tmp_path)
    for tag in ("best/val/acc", "best/test/loss"):
        assert [event.step for event in read.Tensors(".", tag)] == [7]
    written = read.PluginRunToTagToContent("hparams")["."]
    assert set(written) == {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
    start = metadata.parse_session_start_info_plugin_data(written[metadata.SESSION_START_INFO_TAG])
    values = {k: getattr(v, str(v.WhichOneof("kind"))) for k, v in start.hparams.items()}
    texts = {"augment.flip": "true", "trainer.precision": "null", "model.channels": "[32, 64]"}
    assert values == {**config, **texts}  # as one would type them
    assert start.group_name == ""  # or equal configs would share a row
