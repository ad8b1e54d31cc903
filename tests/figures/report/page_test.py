"""The page as a parser sees it; `tests/browser` has what takes a browser."""

import collections
import itertools
import json
import re
import shutil

import html5lib
import numpy as np
import pytest

from oass_jax.figures import source
from oass_jax.figures.report import examples, page, thumbnails
from oass_jax.run.workdir import Workdir
from tests.reports import labels_and_logits, names, write_images, write_pictures, write_run

CLASSES = ["cat", "dog", "owl", "elk"]
IMAGES = names(30, "", ".jpg")
LABEL, LOGITS = labels_and_logits(30, 4)
METRICS = [{"step": n, "train/loss": 1 / n, "train/loss_cls": 0.9 / n} for n in range(1, 60)]
METRICS.append({"step": 59, "val/map": 50.0, "val/ap/cat": 40.0})
HOSTILE = ['"><script>x()</script>', "</script><img src=//x>", "{{ 1 }} ${1} &amp; <b>", "'\"`"]


def parse(text):
    """The document, which must have no error."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(text)


def write(folder, path="", **words):
    words = {"class_names": CLASSES, "images": IMAGES, "path": path, "metrics": METRICS} | words
    return write_run(folder, words.pop("label", LABEL), words.pop("logits", LOGITS), **words)


def render(*folders):
    runs = [Workdir(folder) for folder in folders]
    found = source.short_names(runs)
    return page.render(
        [source.read(run, "csv_val", name=name) for run, name in zip(runs, found, strict=True)]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = write_images(folder / "images", IMAGES, LABEL, CLASSES)
    write(folder / "first", path)
    write_pictures(folder / "first", IMAGES[:3])
    noise = np.random.default_rng(1).normal(0, 2, LOGITS.shape).astype(np.float32)
    write(folder / "other", path, logits=LOGITS + noise)
    write_pictures(folder / "other", IMAGES[1:4])
    return folder


@pytest.fixture(scope="module", params=["one run", "two runs"])
def text(run, request):
    folders = ["first", "other"][: 1 + (request.param == "two runs")]
    return render(*(run / name for name in folders))


def words_of(element):
    return " ".join(" ".join(element.itertext()).split())


def test_it_asks_for_nothing(text):
    # In an attribute, or in the style, an address is data, or a place of the page.
    for element in parse(text).iter():
        for name, value in element.attrib.items():
            if name.endswith(("src", "href", "action", "poster")):
                assert value.startswith(("data:", "#")), (element.tag, value)
    without_data = re.sub(r'"data:image[^"]*"', '""', text)
    assert not re.search(r"https?:|url\(|@import|[\"'=]//", without_data)
    policy = parse(text).find(".//meta[@http-equiv]").get("content")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_and_references_are_right(text):
    document = parse(text)
    ids = collections.Counter(e.get("id") for e in document.iter() if e.get("id"))
    assert ids.most_common(1)[0][1] == 1
    for element in document.iter():
        for name in ("aria-labelledby", "for", "aria-describedby", "aria-controls"):
            assert set(element.get(name, "").split()) <= set(ids)
        if element.get("href", "").startswith("#"):
            assert element.get("href")[1:] in ids


def test_it_can_be_read_without_seeing_it(text):
    document = parse(text)
    assert document.get("lang") == "en"
    assert document.findtext(".//title").startswith("first on csv_val: ")
    for image in document.iter("img"):
        assert image.get("alt")
    for drawing in (e for e in document.iter() if e.tag.endswith("svg")):
        is_hidden = drawing.get("aria-hidden") == "true"
        assert is_hidden or (drawing.get("role") == "img" and drawing.get("aria-label"))
    for table in document.iter("table"):
        assert table.findtext("caption")
        assert all(header.get("scope") for header in table.iter("th"))
    labels = {label.get("for") for label in document.iter("label")}
    assert all(control.get("id") in labels for control in document.iter("input"))
    levels = [int(e.tag[1]) for e in document.iter() if re.fullmatch("h[1-6]", str(e.tag))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_differ_as_much_as_wcag_wants(scheme):
    """By level AA: 4.5 to 1 for text, 3 to 1 for lines; light and dark."""
    style = page.TEMPLATES.joinpath("style.css").read_text()
    block = re.findall(r":root {(.*?)}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w{6});", block))

    def contrast(one, other):
        high, low = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for text in ("text", "muted", "link"):
        for back in ("back", "panel"):
            assert contrast(text, back) >= 4.5, (text, back)
    assert contrast("text", "notice") >= 4.5
    for line in ("s0", "s1", "s2", "s3", "s4", "s5", "there", "absent"):
        for back in ("back", "panel"):
            assert contrast(line, back) >= 3, (line, back)
    assert contrast("text", "bar") >= 3  # the interval on it


def test_headline_and_table_say_what_the_summary_says(run):
    text = render(run / "first")
    summary = json.loads((run / "first" / "eval" / "csv_val" / "summary.json").read_text())
    document = parse(text)
    headline = words_of(document.find(".//dl[@class='headline']"))
    assert f"mAP {summary['map']:.1f}\u00a0%".replace("\u00a0", " ") in headline
    assert f"{summary['precision_recall']['best_f1']['cf1']:.1f} %" in headline
    assert "of 1,000 random draws of 30 of these images" in words_of(document)
    rows = document.findall(".//section[@aria-labelledby='classes']//tbody/tr")
    shown = {words_of(row[0]): words_of(row[2]).replace("\u00a0", " ") for row in rows}
    assert shown == {name: f"{ap:.1f} %" for name, ap in summary["ap"].items()}
    assert "120" in text
    assert "resnet50 on csv, supervised" in text
    assert "python -m oass_jax.main" in text


def test_every_image_is_held_once_and_shown_where_it_belongs(run):
    document = parse(render(run / "first"))
    symbols = [e.get("id") for e in document.iter() if e.tag.endswith("symbol")]
    shown = [
        e.get("href")[1:]
        for e in document.iter()
        if e.tag.endswith("use") and e.get("href").startswith("#image-")
    ]
    assert set(symbols) == set(shown)
    assert len(shown) > len(symbols)
    first = source.read(Workdir(run / "first"), "csv_val", name="first")
    best = examples.of_class(first, 0).best
    (opened,) = (e for e in document.iter("div") if e.get("id") == "class-0")
    figures = opened.findall(".//figure")
    for one, figure in zip(best, figures, strict=False):
        text = words_of(figure)
        assert IMAGES[one.image] in text
        assert f"{100 * one.probability:.1f}" in text
        (drawing,) = (e for e in figure.iter() if e.tag.endswith("svg"))
        assert drawing.get("aria-label").startswith(f"{IMAGES[one.image]}, labelled ")
        assert "cat" in drawing.get("aria-label")


def test_the_sliders_have_their_numbers(run):
    document = parse(render(run / "first"))
    steps = json.loads(document.findtext(".//script[@id='steps']"))
    for control in document.iter("input"):
        own = steps[control.get("id").removeprefix("slider-")]
        assert int(control.get("max")) == len(own["thresholds"]) - 1
        assert int(control.get("value")) == own["start"]


def test_pictures_of_all_runs_are_shown_by_image_and_once(run):
    one, two = render(run / "first"), render(run / "first", run / "other")
    assert len(list(parse(one).iter("img"))) == 3
    document = parse(two)
    groups = [
        [
            (words_of(figure.find("figcaption/b")), figure.find(".//img").get("alt"))
            for figure in group
        ]
        for group in document.findall(".//div[@class='of-image']")
    ]
    alt = "000{}.jpg with class maps; labelled cat; predicted cat, dog"
    assert groups == [
        [("first", alt.format(0))],
        [("first", alt.format(1)), ("other", alt.format(1))],
        [("first", alt.format(2)), ("other", alt.format(2))],
    ]
    assert len(list(document.iter("img"))) == 5


def test_two_runs_are_compared(run):
    document = parse(render(run / "first", run / "other"))
    (rows,) = (
        table.findall(".//tbody/tr")
        for table in document.iter("table")
        if table.findtext("caption") == "mAP of each run"
    )
    assert [words_of(row[0]) for row in rows] == ["first", "other"]
    maps = [
        json.loads((run / name / "eval/csv_val/summary.json").read_text())["map"]
        for name in ("first", "other")
    ]
    assert [words_of(cell) for cell in rows[0]][6:] == ["\N{EN DASH}"] * 2
    assert words_of(rows[1][6]) == f"{maps[1] - maps[0]:+.1f}".replace("-", "\N{MINUS SIGN}")


def test_without_data_metrics_and_pictures_it_is_complete(tmp_path):
    text = render(write(tmp_path / "first", metrics=()))
    document = parse(text)
    (notice,) = (e for e in document.iter("p") if e.get("class") == "notice")
    assert words_of(notice).startswith("The report has no images: ")
    assert not list(document.iter("img"))
    assert document.find(".//h2[@id='training']") is None
    assert IMAGES[0] in text


def test_what_is_not_known_is_left_open(tmp_path):
    folder = write(tmp_path / "first")
    for name in ("config.json", "env.json"):
        (folder / name).unlink()
    document = parse(render(folder))
    rows = document.findall(".//table[@class='made']/tbody/tr")
    found = {words_of(row[0]): words_of(row[1]) for row in rows}
    unknown = ("Run", "Trained", "Command of the training")
    assert {found[name] for name in unknown} == {"\N{EN DASH}"}
    assert found["Command of the evaluation"] == "python -m oass_jax.main"


def test_names_of_any_characters_are_text(tmp_path):
    images = [f"{HOSTILE[n % 4]}{n}" for n in range(30)]
    write(tmp_path / HOSTILE[0].replace("/", "_"), class_names=HOSTILE, images=images)
    write(tmp_path / "second", class_names=HOSTILE, images=images)
    text = render(*sorted(tmp_path.iterdir()))
    document = parse(text)
    assert len(list(document.iter("script"))) == 2
    assert not list(document.iter("img"))
    assert not [e for e in document.iter() if any(name.startswith("on") for name in e.attrib)]
    rows = document.findall(".//section[@aria-labelledby='classes']//tbody/tr")
    assert ["".join(row[0].itertext()) for row in rows] == HOSTILE
    json.loads(document.findtext(".//script[@id='steps']"))


def test_classes_without_positives_are_named(tmp_path):
    label = LABEL.copy()
    label[:, 2] = 0
    document = parse(render(write(tmp_path / "first", label=label)))
    rows = document.findall(".//section[@aria-labelledby='classes']//tbody/tr")
    assert [words_of(row[2]) for row in rows][2] == "\N{EN DASH}"
    assert not [e for e in document.iter() if e.get("id") == "class-2"]
    assert "nan" not in words_of(document.find(".//main"))


@pytest.mark.parametrize(("num_images", "num_classes"), [(1, 1), (2, 1), (3, 5)])
def test_few_images_and_classes_are_enough(tmp_path, num_images, num_classes):
    label, logits = labels_and_logits(num_images, num_classes)
    parse(render(write_run(tmp_path, label, logits)))


def test_many_classes_stay_below_the_limit(tmp_path, monkeypatch):
    """With as many images and pictures as there is room for, without reading one."""
    monkeypatch.setattr(page, "MAX_LISTED", 200)
    monkeypatch.setattr(page, "MAX_DETAILED", 20)
    num, long = 300, "a rather long name of a class, as there are many"
    label, logits = labels_and_logits(100, num, positives=0.03)
    images = [f"folder of many images/with long names too/{n:012}.jpg" for n in range(100)]
    write_run(
        tmp_path, label, logits, class_names=[f"{long} {n}" for n in range(num)], images=images
    )

    def fill(_, wanted, *, max_bytes):
        held = thumbnails.Thumbnail("A" * (max_bytes // len(set(wanted))), 112, 84)
        return dict.fromkeys(wanted, held), []

    monkeypatch.setattr(thumbnails, "read", fill)
    text = render(tmp_path)
    assert 2_800_000 < len(text.encode()) < 3_000_000
    assert "Shown are the 200 classes of the lowest average precision" in text
    assert text.count("<details") == 20


def test_f1_of_two_runs_is_by_the_same_rule(run, tmp_path):
    other = shutil.copytree(run / "other", tmp_path / "other")
    path = other / "eval" / "csv_val" / "scores.npz"
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "threshold"}
    np.savez(path, **kept)
    sentence = "CF1 and OF1 are of labels from a probability of 50\u00a0%"
    assert sentence not in render(run / "first", run / "other").replace("&nbsp;", "\u00a0")
    text = render(run / "first", other).replace("&nbsp;", "\u00a0")
    assert sentence in text
    quality = page.metrics.precision_recall
    guess = quality.predicted(LOGITS, thresholds=np.full(LOGITS.shape[1], 0.5))
    cf1 = quality.precision_recall(guess, LABEL).overview()["cf1"]
    table = parse(render(run / "first", other)).find(
        ".//section[@aria-labelledby='comparison']//tbody"
    )
    assert words_of(table[0][4]).startswith(f"{cf1:.1f}")


def test_a_small_threshold_is_not_zero():
    assert [page._share(x) for x in (0.0, 0.0003, 0.5)] == [
        "0.0\u00a0%",
        "0.03\u00a0%",
        "50.0\u00a0%",
    ]
