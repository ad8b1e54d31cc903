"""Opens a finished run in the browser: drop an image, see what is predicted and why.

    python -m oass_jax.app --workdir=runs/max

It serves this machine alone: it listens at 127.0.0.1, and nothing is sent anywhere else. Images
are deleted when it ends. Ctrl-C ends it. It needs gradio, which is no part of the installation:
pip install "gradio>=6,<7"
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oass_jax import command_line
from oass_jax.errors import DivergedError, UserError

if TYPE_CHECKING:
    import gradio as gr

    from oass_jax.evaluation.predictor import Predictor

GRADIO = "gradio>=6,<7"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Understands the command line.

    Args:
      argv: without the program.

    Returns:
      `workdir` and `port`.

    Raises:
      UserError: there is something wrong with a flag.
    """
    parser = command_line.Parser(
        prog="python -m oass_jax.app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir", required=True, type=command_line.path, metavar="DIR", help="of the run"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="to listen at; default the first that is free"
    )
    args = parser.parse_args(argv)
    if args.port is not None and not 0 < args.port < 65536:
        raise UserError(f"--port={args.port}: must be from 1 to 65535")
    return args


@command_line.command
def main(argv: Sequence[str]) -> None:
    """The command. Imports gradio and jax late, so that errors answer at once."""
    args = parse(argv)
    from oass_jax.run import libraries
    from oass_jax.run.workdir import Workdir

    Workdir(args.workdir).read_classes()
    require_gradio()
    libraries.quieten()
    from oass_jax.evaluation import predictor

    for number in (signal.SIGTERM, signal.SIGHUP):  # so that images are deleted
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    with serve(predictor.load(args.workdir, batch_size=1), args.port) as (app, address):
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        app.block_thread()


def require_gradio() -> None:
    """Imports gradio, with its telemetry off.

    Raises:
      UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    for name in ("NO_PROXY", "no_proxy"):  # it asks itself whether it is there
        known = filter(None, [os.environ.get(name)])
        os.environ[name] = ",".join([*known, "127.0.0.1", "localhost"])
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(f'the app needs gradio ({error}): pip install "{GRADIO}"') from error


@contextlib.contextmanager
def serve(model: "Predictor", port: int | None) -> Iterator[tuple["gr.Blocks", str]]:
    """Serves the app in threads, to this machine alone.

    Args:
      model: the opened run.
      port: None for the first that is free.

    Yields:
      The app and its address.

    Raises:
      UserError: the port is in use.
    """
    import gradio as gr

    with tempfile.TemporaryDirectory(prefix="oass_jax_app_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of the images; read when the page is laid out
        app = create(model)
        try:
            _, address, _ = app.launch(
                server_name="127.0.0.1",
                server_port=port,
                share=False,
                ssr_mode=False,
                enable_monitoring=False,
                footer_links=[],
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                prevent_thread_lock=True,
                quiet=True,
            )
        except OSError as error:
            in_use = "the usual ports are" if port is None else f"port {port} is"
            raise UserError(f"{in_use} in use: choose another, --port=N") from error
        try:
            yield app, address
        finally:
            app.close(verbose=False)


def create(model: "Predictor") -> "gr.Blocks":
    """Lays out the page.

    Args:
      model: the opened run.
    """
    import gradio as gr

    from oass_jax.app_view import View

    view = View(model)
    title = f"{model.workdir.name}, step {model.step}"
    with gr.Blocks(title=title, analytics_enabled=False) as app:
        gr.Markdown(f"### {title}")
        seen = gr.State()
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=320,
                    buttons=["fullscreen"],
                )
                # What gradio itself cannot open would end in a traceback. No class of our own: it
                # would write an app.pyi beside this file.
                image.preprocess = lambda payload: payload and payload.path
                own = gr.Checkbox(
                    True,
                    label="Thresholds of the run",
                    info=model.decision.source,
                )
                threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold of every class")
                bars = gr.HTML()
            with gr.Column():
                name = gr.Dropdown([], label="Class map")
                with_cut = gr.Checkbox(True, label="Keypoint and cut")
                drawing = gr.Image(
                    interactive=False,
                    show_label=False,
                    buttons=["download", "fullscreen"],
                    elem_id="drawing",
                )
                note = gr.Markdown(elem_id="note")
        controls, shown = [seen, name, own, threshold, with_cut], [bars, drawing, note]

        def predict(path: str | None) -> tuple[Any, Any]:
            if path is None:
                return None, gr.Dropdown([], value=None)
            try:
                found = view.predict(path)
            except (UserError, DivergedError) as error:
                gr.Warning(str(error).replace(path, Path(path).name))
                return None, gr.Dropdown([], value=None)  # not the image before it
            classes = view.classes(found)
            return found, gr.Dropdown(classes, value=classes[0])

        def show(found: Any, name: str, own: bool, threshold: float, with_cut: bool) -> tuple:
            if found is None or name is None:
                return "", None, ""
            limit = None if own else threshold
            drawn, text = view.drawing(found, name, limit, with_cut=with_cut)
            return view.bars(found, limit), drawn, text

        always_last = {"trigger_mode": "always_last", "show_progress": "hidden"}
        image.change(predict, image, [seen, name]).then(show, controls, shown, **always_last)
        threshold.input(lambda: False, None, own, **always_last)
        for control in (name.input, own.change, threshold.input, with_cut.input):
            control(show, controls, shown, **always_last)
    return app


if __name__ == "__main__":
    sys.exit(main())
