"""The log of a training is read whatever happened to it, and drawn."""

import json

import pytest

from dynamic_routing.analysis.curves import TrainingLog, read_training_log, training_figure


def log_of(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    return read_training_log(tmp_path / "metrics.json")


def test_log_survives_a_cut_line_and_a_resumed_run(tmp_path):
    lines = [json.dumps({"iteration": i, "total_loss": 1.0 * i}) for i in (19, 39, 59, 79)]
    resumed = [json.dumps({"iteration": i, "total_loss": -1.0 * i}) for i in (39, 59)]
    evaluated = json.dumps({"iteration": 59, "sem_seg/mIoU": float("nan"), "note": "text"})
    cut = '{"iteration": 79, "total_lo'
    log = log_of(tmp_path, "\n".join([*lines, *resumed, evaluated, cut]))
    assert log.series("total_loss").iterations == (19, 39, 59)
    assert log.series("total_loss").values == (19.0, -39.0, -59.0)
    assert log.series("sem_seg/mIoU").iterations == (59,)
    assert log.series("nothing").values == () and log.skipped_lines == 1
    assert log.names == ("total_loss", "sem_seg/mIoU")


def test_rare_quantities_stand_behind_later_iterations(tmp_path):
    lines = [
        json.dumps({"iteration": 19, "total_loss": 3.0}), json.dumps({"iteration": 0, "x": 1.0}),
        json.dumps({"iteration": 39, "total_loss": 2.0}), json.dumps({"iteration": 20, "x": 2.0}),
    ]  # fmt: skip
    log = log_of(tmp_path, "\n".join(lines))
    assert log.series("total_loss").iterations == (19, 39)
    assert log.series("x").iterations == (0, 20) and list(log.rows) == [0, 19, 20, 39]


def test_last_line_of_an_iteration_wins(tmp_path):
    log = log_of(tmp_path, '{"iteration": 5, "lr": 1}\n\n{"iteration": 5, "lr": 2}\n')
    assert log.rows == {5: {"lr": 2.0}} and log.skipped_lines == 0


def test_log_agrees_with_detectron2s_writer(tmp_path):
    from detectron2.utils.events import EventStorage, JSONWriter

    with EventStorage(0) as storage:
        writer = JSONWriter(str(tmp_path / "metrics.json"))
        for i in range(60):
            storage.put_scalars(total_loss=60.0 - i, lr=0.5, smoothing_hint=False)
            if i % 20 == 19:
                writer.write()
            storage.step()
        writer.close()
    log = read_training_log(tmp_path / "metrics.json")
    assert log.series("total_loss").iterations == (19, 39, 59)
    assert log.series("total_loss").values == (41.0, 21.0, 1.0)


@pytest.mark.parametrize("text", ["", "hello\n", "[1]\n", '{"loss": 1}\n', '{"iteration": NaN}\n'])
def test_log_without_iterations_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="no line with an iteration"):
        log_of(tmp_path, text)


def test_curves_show_the_series():
    rows = {i: {"total_loss": 1.0 / (i + 1), "loss_a": 0.5, "lr": 0.1} for i in range(5)}
    losses, rate = training_figure(TrainingLog(rows)).axes
    assert [line.get_label() for line in losses.lines] == ["total_loss", "loss_a"]
    assert losses.lines[0].get_ydata() == pytest.approx([1 / (i + 1) for i in range(5)])
    assert rate.lines[0].get_ydata() == pytest.approx([0.1] * 5)


def test_integers_without_end_are_no_numbers(tmp_path):
    log = log_of(tmp_path, f'{{"iteration": 5, "lr": 1, "evil": {"9" * 400}}}\n')
    assert log.rows == {5: {"lr": 1.0}}
