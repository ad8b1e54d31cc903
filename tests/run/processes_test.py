import errno
import hashlib
import json

import pytest

from oass_jax.data import pipeline
from oass_jax.data.example import Split
from oass_jax.errors import UserError
from oass_jax.run import processes


def test_what_differs_is_named_with_the_processes_that_have_it():
    each = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 1, "b": "x", "c": 0}]
    assert processes.differences(each) == (
        'b is "x" in processes 0, 2 and "y" in process 1; c is null in processes 0, 1 and 0 in '
        "process 2"
    )
    assert processes.differences([{"a": 1}] * 300) == ""
    many = processes.differences([{"a": n > 0} for n in range(9)])
    assert many == "a is false in process 0 and true in processes 1, 2, 3, 4, ..."


def test_facts_are_the_config_but_for_where_a_host_keeps_its_data():
    fields = {"seed": 0, "data.data_dir": "/disk", "eval.every_epochs": 1.0}
    facts = processes.facts_of(fields)
    assert facts["config.seed"] == 0
    assert facts["config.eval.every_epochs"] == 1.0
    assert "config.data.data_dir" not in facts
    assert {"jax", "numpy", "python", "code"} <= facts.keys()


def raised(error, cause=None):
    """As caught, with what it was raised from."""
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_an_error_of_waiting_in_vain_is_told_from_others():
    gloo = RuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nand more")
    found = processes.lost(raised(UserError("a checkpoint could not be written"), gloo))
    assert found.status == 75
    assert "lost (UNKNOWN: Gloo all-reduce failed: Connection closed by peer): start all" in str(
        found
    )
    assert processes.lost(ValueError("Barrier timed out"))
    for other in (UserError("gloo.jpg is damaged"), OSError(28, "barrier"), RuntimeError("a bug")):
        assert processes.lost(raised(other)) is None


def test_processes_evaluate_the_same_images(monkeypatch):
    """One with fewer would wait in a collective that the others do not come to any more."""
    other = json.dumps({"eval.num_records": 520, "eval.sources": "x"}, sort_keys=True)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)

    def gather(text):
        is_digest = not text.startswith("{")
        return [text, hashlib.sha256(other.encode()).hexdigest() if is_digest else other]

    monkeypatch.setattr(processes, "_gather", gather)
    split = Split("csv", "1", "val", ("cat",), {"labels.csv": "y"}, [None] * 500)
    with pytest.raises(UserError, match=r"eval\.num_records is 500 in process 0 and 520 in"):
        processes.agree(pipeline.evaluated(split))


def test_one_process_has_nothing_to_agree_on():
    processes.agree({"a": 1})
    assert processes.from_first(lambda: "x") == "x"
    assert (processes.first_of("x"), processes.first_of("")) == ("x", "")
    with processes.together():
        pass
    with pytest.raises(UserError, match="own"), processes.together():
        raise UserError("own")


def test_an_error_of_the_disk_of_one_is_reported_by_all(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_gather", lambda text: [text, ""])
    denied = PermissionError(errno.EACCES, "Permission denied", "x")
    with pytest.raises(UserError, match=r"^x cannot be used: Perm"), processes.together():
        raise denied
    monkeypatch.setattr(processes, "_gather", lambda text: ["x cannot be used", text])
    monkeypatch.setattr(processes.jax, "process_index", lambda: 1)
    with pytest.raises(UserError, match=r"^process 0: x cannot be used"), processes.together():
        pass
    # What may be a bug is no message for users.
    with pytest.raises(FileNotFoundError), processes.together():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")
