import contextlib
import io
import json
import resource
import time
import types

import pytest
from PIL import Image

from oass_jax.errors import DivergedError
from oass_jax.run.console import Console
from oass_jax.run.workdir import Workdir
from oass_jax.training.metric_writer import MetricWriter
from oass_jax.training.monitor import Monitor
from tests.commands import events


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_object_a_line(tmp_path):
    writer = MetricWriter(Workdir(tmp_path), step=0)
    writer.write(10, {"train/loss": 0.5})
    writer.write(20, {"val/map": float("nan")})
    writer.close()
    assert lines(tmp_path) == [{"step": 10, "train/loss": 0.5}, {"step": 20, "val/map": None}]
    assert list((tmp_path / "tb").glob("events.*"))


def test_images_are_shown_as_the_files_they_are(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "JPEG")
    writer = MetricWriter(Workdir(tmp_path), step=0)
    writer.write_images(10, {"val/01_a b": file.getvalue(), "val/02_ä": file.getvalue()})
    writer.close()
    silent = MetricWriter(Workdir(tmp_path / "other", writes=False), step=0)
    silent.write_images(10, {"val/01": b""})
    found = [(event.step, value) for event in events(tmp_path) for value in event.summary.value]
    assert [(step, value.tag) for step, value in found] == [(10, "val/01_a b"), (10, "val/02_ä")]
    image = found[0][1].image
    assert (image.width, image.height, image.encoded_image_string) == (30, 20, file.getvalue())


def test_a_disk_that_takes_no_events_is_an_error_and_no_standstill(tmp_path):
    writer = MetricWriter(Workdir(tmp_path), step=0)

    def fill():
        for step in range(1000):
            writer.write(step, {f"train/{n}": 0.5 for n in range(10)})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            fill()
        with contextlib.suppress(OSError):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_resuming_hides_later_events_of_an_earlier_start(tmp_path):
    writer = MetricWriter(Workdir(tmp_path), step=20)
    writer.write(30, {"train/loss": 0.5})
    writer.close()
    first, begin, scalar = events(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert (begin.step, begin.session_log.status) == (21, begin.session_log.START)
    (value,) = scalar.summary.value
    assert (scalar.step, value.tag, value.simple_value) == (30, "train/loss", 0.5)
    assert abs(scalar.wall_time - time.time()) < 600


def test_an_evaluation_that_is_made_again_is_written_once(tmp_path):
    for _ in range(3):
        writer = MetricWriter(Workdir(tmp_path), step=20, evaluation_due=True)
        writer.write(20, {"val/map": 50.0})
        writer.close()
    assert lines(tmp_path) == [{"step": 20, "val/map": 50.0}]


def test_resuming_cuts_what_came_after_and_a_torn_line(tmp_path):
    text = '{"step": 10, "a": 1.0}\n{"step": 20, "a": 2.0}\n{"step": 30, "a": 3.0}\n{"st'
    (tmp_path / "metrics.jsonl").write_text(text)
    writer = MetricWriter(Workdir(tmp_path), step=20)
    writer.write(30, {"a": 4.0})
    writer.close()
    assert [(row["step"], row["a"]) for row in lines(tmp_path)] == [(10, 1.0), (20, 2.0), (30, 4.0)]


@pytest.fixture
def writer(tmp_path):
    writer = MetricWriter(Workdir(tmp_path), step=0)
    yield writer
    writer.close()


def monitor(writer, log_every=2, **changes):
    console = Console()
    console.begin(step=0, total_steps=6)
    return Monitor(
        writer,
        console,
        start=0,
        total_steps=6,
        steps_per_epoch=3.0,
        batch_size=8,
        log_every=log_every,
        rates={"learning_rate": lambda step: 0.1 * step},
        images_of=lambda step: [f"{step}_{i}.jpg" for i in range(10)],
        chance_loss_fn=lambda: 1.0,
        **changes,
    )


def test_monitor_writes_the_mean_of_the_interval_one_step_late(tmp_path, writer, capsys):
    watched = monitor(writer)
    for step, loss in enumerate([1.0, 3.0, 5.0], start=1):
        watched.add(step, {"loss": loss, "loss_cls": loss})
    (row,) = lines(tmp_path)
    assert row["step"] == 2
    assert row["train/loss"] == 2.0
    assert row["train/epoch"] == pytest.approx(2 / 3)
    assert row["train/learning_rate"] == pytest.approx(0.1)
    assert row["perf/images_per_sec"] > 0
    assert "step 2/6  epoch 0.67  loss 2.0000" in capsys.readouterr().out
    watched.add(4, {"loss": 1.0, "loss_cls": 1.0})
    watched.settle()
    assert [row["step"] for row in lines(tmp_path)] == [2, 4]


def test_rates_are_those_of_the_time_since_the_last_line_without_pauses(monkeypatch):
    clock = types.SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("oass_jax.training.monitor.time", clock)
    found = []
    watched = Monitor(
        types.SimpleNamespace(write=lambda step, metrics: None),
        types.SimpleNamespace(
            progress=lambda step, metrics, epoch, eta_s: found.append(
                (step, metrics["perf/images_per_sec"], metrics["perf/input_wait"], epoch, eta_s)
            )
        ),
        start=10,
        total_steps=15,
        steps_per_epoch=2.0,
        batch_size=8,
        log_every=2,
        rates={},
        images_of=None,
        chance_loss_fn=lambda: 1.0,
    )

    def batches():
        while True:
            clock.now += 1
            yield {}

    source = batches()
    for step in range(11, 16):
        watched.wait_for(source)  # 1 s
        clock.now += 3
        watched.add(step, {"loss": 0.0})
        if step == 13:  # just after the first line
            with watched.paused():
                clock.now += 1000
    watched.settle()
    # Each step takes 4 s; a line is written when the next step has been dispatched.
    assert found == [
        (12, 2 * 8 / 12, 3 / 12, 6.0, 3 * 12 / 2),
        (14, 2 * 8 / 8, 2 / 8, 7.0, 1 * 8 / 2),
        (15, 1 * 8 / 1e-9, 0.0, 7.5, 0.0),  # settled at once
    ]


NAN = {"loss": float("nan"), "loss_cls": 0.5, "skipped": 1.0}


def test_skipped_steps_are_counted_and_not_averaged(tmp_path, writer, capsys):
    watched = monitor(writer)
    for step, metrics in enumerate([{"loss": 3.0}, NAN, NAN, {"loss": 4.0}, NAN, NAN], start=1):
        watched.add(step, {"skipped": 0.0} | metrics)
    watched.settle()
    rows = lines(tmp_path)
    assert [row["train/skipped_steps"] for row in rows] == [1, 1, 2]
    assert [row.get("train/loss") for row in rows] == [3.0, 4.0, None]
    assert "step 2 was skipped, not finite: loss\n" in capsys.readouterr().out


def test_three_skipped_steps_in_a_row_stop_the_run(tmp_path, writer):
    watched = monitor(writer, log_every=1)
    watched.add(1, NAN)
    watched.add(2, NAN)
    watched.settle()
    again = monitor(writer, log_every=1, unlogged=watched.unlogged)
    again.add(3, NAN)
    with pytest.raises(DivergedError) as error:
        again.settle()
    images = ", ".join(f"3_{i}.jpg" for i in range(8))
    assert f"the last was 3 (not finite: loss) with the images {images} and 2 more" in str(
        error.value
    )


def test_a_resumed_interval_ends_as_if_it_had_not_been_interrupted(tmp_path, writer):
    losses = [0.1, 0.2, 0.3, 0.7, 0.9, 0.4]
    watched = monitor(writer, log_every=6)
    for step, loss in enumerate(losses, start=1):
        watched.add(step, {"loss": loss})
        if step == 4:
            watched.settle()
            saved = json.loads(json.dumps(watched.unlogged))
    watched.settle()
    again = monitor(writer, log_every=6, unlogged=saved)
    for step in (5, 6):
        again.add(step, {"loss": losses[step - 1]})
    again.settle()
    first, second = lines(tmp_path)
    assert second["train/loss"] == first["train/loss"] == pytest.approx(2.6 / 6)


@pytest.mark.parametrize(("loss_cls", "warned"), [(0.99, True), (0.9, False)])
def test_a_network_that_learns_nothing_is_reported_once(writer, capsys, loss_cls, warned):
    watched = monitor(writer)  # three steps are an epoch, a line is two
    for step in range(1, 7):
        watched.add(step, {"loss": 1.0, "loss_cls": loss_cls})
    watched.settle()
    assert capsys.readouterr().out.count("warning: after two epochs") == warned


def test_a_pipe_gets_plain_lines(writer, capsys):
    watched = monitor(writer, log_every=1)
    watched.add(1, {"loss": 1.0, "loss_cls": 1.0})
    watched.settle()
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "\x1b" not in out
    assert "waiting 0%" in out
