import sys

import pytest

from oass_jax import report
from tests.commands import run
from tests.reports import labels_and_logits, names, write_images, write_run

LABEL, LOGITS = labels_and_logits(12, 3)


@pytest.fixture
def write(tmp_path):
    def write(name="run", **words):
        return write_run(tmp_path / name, LABEL, LOGITS, **words)

    return write


def test_it_is_written_into_the_workdir(write, capsys):
    folder = write()
    report.main([f"--workdir={folder}"])
    path = folder / "report.html"
    assert capsys.readouterr().out == f"written to {path}\n"
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert not list(folder.glob("*.tmp"))


def test_or_where_it_is_wanted(write, tmp_path, capsys):
    first, second = write("a"), write("b", split="test")
    write("a", split="test")
    out = tmp_path / "new" / "page.html"
    report.main([f"--workdir={first},{second}", "--eval=csv_test", f"--out={out}"])
    assert "b against a" in out.read_text()
    assert not (first / "report.html").exists()
    before = out.read_bytes()
    report.main([f"--workdir={first}", f"--workdir={second}", "--eval=csv_test", f"--out={out}"])
    assert out.read_bytes() == before


def test_it_is_the_same_each_time(write, tmp_path):
    folder = write()
    texts = [report.write_report([folder], tmp_path / name).read_bytes() for name in ("a", "b")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: --workdir"),
        (["--workdir={}/nowhere"], "nowhere is no folder"),
        (["--workdir={}/runn"], "did you mean {}/run?"),
        (["--workdir={}"], "holds no run: there is no config.json"),
        (["--workdir={}/run,{}/run"], "is named twice"),
        (["--workdir={}/run", "--eval=csv_vall"], "did you mean csv_val?"),
        (["--workdir={}/run", "--evaluation=x"], "did you mean --eval?"),
        (["--workdir={}/run", "--out={}/run/config.json/x"], "cannot write --out={}/run"),
        (["--workdir={}/run,{}/new"], "new has no evaluation csv_val: there are none"),
        (["--workdir={}/run,{}/less"], "evaluated on other images: 4 are in one of them only"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(write, tmp_path, capsys, words, message):
    write()
    (write("new") / "eval" / "csv_val" / "summary.json").unlink()
    write_run(tmp_path / "less", LABEL[:8], LOGITS[:8])
    with pytest.raises(SystemExit) as status:
        report.main([word.replace("{}", str(tmp_path)) for word in words])
    printed = capsys.readouterr()
    assert (status.value.code, printed.out) == (2, "")
    assert len(printed.err.splitlines()) == 1
    assert message.replace("{}", str(tmp_path)) in printed.err


def test_it_does_without_jax(write, tmp_path):
    images = names(12, "", ".jpg")
    path = write_images(tmp_path / "images", images, LABEL, names(3, "class "))
    folder = write(path=path)
    code = (
        "import sys; from oass_jax import report; report.main(sys.argv[1:]);"
        "print([name for name in ('jax', 'flax', 'sklearn', 'grain') if name in sys.modules])"
    )
    words = [f"--workdir={folder}", f"--out={tmp_path / 'report.html'}"]
    done = run([sys.executable, "-c", code, *words], None)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "data:image/webp" in (tmp_path / "report.html").read_text()
