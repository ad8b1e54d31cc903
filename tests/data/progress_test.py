import itertools
import types

import pytest

from oass_jax.data import progress


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, ""), (False, "val: 3 of 3\n")])
def test_one_line_at_the_end_of_a_short_task_in_a_pipe(monkeypatch, capsys, is_terminal, lines):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    assert list(progress.report_progress("abc", what="val", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", lines)


def test_on_a_terminal_it_speaks_where_nothing_draws_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    list(progress.report_progress("abc", what="val", total=3, on_terminal=True))
    assert capsys.readouterr().err == "val: 3 of 3\n"


def test_a_long_task_reports_sparsely(monkeypatch, capsys):
    seconds = itertools.count(0, 4)
    clock = types.SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(progress, "time", clock)
    list(progress.report_progress(range(10), what="val", total=10))
    assert 3 <= capsys.readouterr().err.count("\n") < 6
