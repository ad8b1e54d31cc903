"""Predicts images with the network of a finished run, of which it needs the workdir alone.

    python -m oass_jax.predict --workdir=runs/max photo.jpg
    python -m oass_jax.predict --workdir=runs/max photos 'more/**/*.png' @list.txt --out=DIR --cams

The first command prints a line for each image: its labels and their probabilities. With --out it
writes files instead:

    DIR/predictions.csv        image, its labels with | between them, the probability of each class
    DIR/summary.json           the thresholds, where they come from, and how it was predicted
    DIR/cams/IMAGE/CLASS.png   with --cams: the class map of each label over the image
    DIR/cams/IMAGE/maps.npy    with --cams: raw maps of all classes, float32 [C, h, w], in cells

predictions.csv appears when all is done; until then its lines are in predictions.csv.tmp, which
stays where the command is interrupted, until it is started again, from the beginning. IMAGE is the
path from the folder that all images have in common. Of a folder .jpg, .jpeg, .png, .webp, .tif,
.tiff, .bmp and .gif are taken, and what its links lead to. An image or folder that cannot be read
is reported and skipped; the exit status is then 1.
"""

import argparse
import contextlib
import csv
import glob
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oass_jax import command_line
from oass_jax.errors import DivergedError, UserError, nearest_path

if TYPE_CHECKING:
    from oass_jax.evaluation.predictor import Predictor
    from oass_jax.evaluation.result import Result


_MAX_NAME_BYTES = 200  # of the 255 that file systems take


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Understands the command line.

    Args:
      argv: without the program.

    Returns:
      `images`, `workdir`, `out`, `cams`, `threshold` and `batch_size`.

    Raises:
      UserError: there is something wrong with a flag.
    """
    parser = command_line.Parser(
        prog="python -m oass_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, folder, 'pattern' or @list of files"
    )
    parser.add_argument(
        "--workdir", required=True, type=command_line.path, metavar="DIR", help="of the run"
    )
    parser.add_argument("--out", type=command_line.path, metavar="DIR", help="write files there")
    parser.add_argument("--cams", action="store_true", help="write class maps, too")
    parser.add_argument(
        "--threshold",
        default="best_f1",
        help="from which probability on a class is a label: best_f1 (default) as the run has "
        "chosen, 0.5 where it has not; a number; or precision=0.9 on the validation split",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="images computed together, which changes no number; default 1 on a CPU, else that of "
        "the evaluation",
    )
    args = parser.parse_args(argv)
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size={args.batch_size}: must be at least 1")
    if args.cams and args.out is None:
        raise UserError("--cams writes files: name a folder for them, --out=DIR")
    return args


@command_line.command
def main(argv: Sequence[str]) -> int:
    """The command. Imports jax late, so that errors answer at once."""
    args = parse(argv)
    # All of them before anything is written, since what is written are images, too.
    unread: list[OSError] = []
    paths = list(_find(args.images, args.out, unread.append))
    for error in unread:
        command_line.print_error(f"{error.filename} cannot be read: {error.strerror}")
    if not paths:
        raise UserError(f"there is no image in {' '.join(args.images)}")
    from oass_jax.evaluation import decision
    from oass_jax.run import libraries
    from oass_jax.run.workdir import Workdir

    decision.parse(args.threshold)
    Workdir(args.workdir).read_classes()
    libraries.quieten()
    from oass_jax.evaluation import predictor

    model = predictor.load(args.workdir, threshold=args.threshold, batch_size=args.batch_size)
    print(f"step {model.step}; thresholds: {model.decision.source}", file=sys.stderr)
    unreadable = 0

    def report(error: UserError) -> None:
        nonlocal unreadable
        unreadable += 1
        command_line.print_error(str(error))

    results = model.stream(paths, on_error=report)
    try:
        with libraries.memory_reported("choose a smaller --batch_size"):
            if args.out is None:
                for result in results:
                    print(_line(result), flush=True)
            else:
                common = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
                shown = _shown(results, len(paths))
                _write(args.out, model, shown, cams_below=common if args.cams else None)
                print(f"written to {args.out}")
    except DivergedError as error:
        command_line.print_error(str(error))
        return error.status
    if unreadable:
        command_line.print_error(f"{unreadable} of {len(paths)} images could not be read")
    return 1 if unreadable or unread else 0


def _find(
    words: Sequence[str], out: Path | None, on_error: Callable[[OSError], None]
) -> Iterator[str]:
    """The paths of all images that the words of the command line name, but for those in `out`.

    Args:
      words: files, folders, patterns and lists.
      out: what is written to; None for nothing.
      on_error: called for a folder that cannot be read.

    Raises:
      UserError: a word names nothing.
    """
    from oass_jax.data.image_file import SUFFIXES

    excluded = {os.path.realpath(out), os.path.realpath(out / "cams")} if out else set()
    for word in words:
        if os.path.isdir(word):
            for folder, names in _walk(word, excluded, on_error):
                images = (name for name in sorted(names) if name.lower().endswith(SUFFIXES))
                yield from (os.path.join(folder, name) for name in images)
        elif os.path.exists(word):
            yield word
        elif word.startswith("@"):
            yield from _listed(word[1:])
        elif "**" in word and (matches := sorted(glob.iglob(word, recursive=True))):
            # It names folders and what is in them, whatever that is.
            inside = [m for m in matches if os.path.isdir(m) or m.lower().endswith(SUFFIXES)]
            found = {_place(path): path for path in reversed(list(_find(inside, out, on_error)))}
            # As of a folder that is named: that itself is not excluded.
            base = os.path.realpath(os.path.dirname(word.partition("*")[0]))
            others = [each for each in excluded if not _is_in(f"{base}{os.sep}", [each])]
            kept = (path for place, path in found.items() if not _is_in(place, others))
            yield from reversed([os.path.normpath(path) for path in kept])
        elif matches := sorted(glob.iglob(word, recursive=True)):
            yield from _find(matches, out, on_error)
        else:
            raise UserError(f"there is no image {word}: {nearest_path(Path(word))}")


def _walk(
    top: str, excluded: Collection[str], on_error: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str]]]:
    """Folders, each once whatever links lead to it, and the names of their files."""
    seen = set()
    for folder, folders, names in os.walk(top, onerror=on_error, followlinks=True):
        here = os.path.realpath(folder)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        below = {name: os.path.realpath(os.path.join(folder, name)) for name in folders}
        folders[:] = sorted(name for name, path in below.items() if path not in excluded)
        yield folder, names


def _place(path: str) -> str:
    """Where a file lies, whatever links led to its folder."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _is_in(path: str, folders: Collection[str]) -> bool:
    return any(path.startswith(folder + os.sep) for folder in folders)


def _listed(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
            yield from (line.strip() for line in lines if line.strip())
    except OSError as error:
        raise UserError(f"the list @{path} cannot be read: {error.strerror}") from error


def _line(result: "Result") -> str:
    """An image and its labels, for people."""
    labels = [f"{name} {result.probability[name]:.2f}" for name in result.labels]
    if not labels:
        best = max(result.probability, key=result.probability.get)
        labels = [f"no label ({best} {result.probability[best]:.2f})"]
    # A name may hold bytes that are no text.
    return f"{result.name}: {', '.join(labels)}".encode(errors="replace").decode()


def _shown(results: Iterator["Result"], num_images: int) -> Iterator["Result"]:
    """Passes results on, with a bar on a terminal and a line now and then in a pipe."""
    from oass_jax.data.progress import report_progress
    from oass_jax.run.console import Console

    console = Console()
    try:
        yield from console.track(
            report_progress(results, what="predicted", total=num_images),
            activity="predicting",
            num_images=num_images,
            batch_size=1,
        )
    finally:
        console.close()


def _write(
    out: Path, model: "Predictor", results: Iterator["Result"], *, cams_below: str | None
) -> None:
    """Writes every file.

    Args:
      out: the folder.
      model: that predicts.
      results: what it predicts, one after the other.
      cams_below: the folder that all images have in common; None to write no class maps.
    """
    from oass_jax.run import workdir
    from oass_jax.run.files import write_bytes

    path = out / workdir.PREDICTIONS
    temporary = path.with_name(path.name + ".tmp")
    num_images = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            _alone(out),
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["image", "labels", *model.class_names])
            for result in results:
                num_images += 1
                probabilities = (f"{p:.9g}" for p in result.probability.values())
                table.writerow([result.name, "|".join(result.labels), *probabilities])
                file.flush()
                if cams_below is not None:
                    name = os.path.relpath(os.path.abspath(result.name), cams_below)
                    _write_cams(out / "cams" / name, result)
            os.replace(temporary, path)
        summary = model.about() | {"num_images": num_images, "command": workdir.command()}
        write_bytes(out / workdir.SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"cannot write to {error.filename or f'--out={out}'}: {error.strerror}"
        ) from error


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps other predictions out of a folder.

    Raises:
      UserError: another one holds it.
    """
    import filelock

    lock = filelock.FileLock(out / ".predict.lock", timeout=0)
    try:
        with contextlib.suppress(NotImplementedError):  # a mounted bucket may have no locks
            lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"another prediction is writing to {out}: wait for its end, or name another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _write_cams(folder: Path, result: "Result") -> None:
    import numpy as np

    from oass_jax.run.files import write_bytes

    files = {"maps.npy": io.BytesIO()}
    np.save(files["maps.npy"], result.maps, allow_pickle=False)
    for label in result.labels:
        files[f"{_short_name(label)}.png"] = data = io.BytesIO()
        result.overlay(label).save(data, "PNG")
    for name, data in files.items():
        write_bytes(folder / name, data.getvalue())
    for path in folder.glob("*.png"):  # of labels that an earlier prediction gave
        if path.name not in files:
            path.unlink(missing_ok=True)


def _short_name(label: str) -> str:
    """A class as part of a file name; of a long one the beginning, and what tells it apart."""
    from oass_jax.run.files import safe_name

    name = safe_name(label)
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: _MAX_NAME_BYTES - 9].decode(errors="ignore") + f"%{digest}"


if __name__ == "__main__":
    sys.exit(main())
