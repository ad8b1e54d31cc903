"""Our steps against PuzzleCAM in plain PyTorch, on the same device in the same run.

    python -m benchmarks.torch_puzzlecam --image_px=128 --batch_size=8

Both run on one GPU where both see it, else on the CPU. PyTorch's step (`torch_resnet.py`) has what
its users know to be fast: channels last, autocast for bfloat16, a fused optimiser, `torch.compile`.
It is spared the random resize, crop and flip that ours does on the device, and under bfloat16 its
class maps are bfloat16 where ours stay float32. Before anything is timed, both must compute the
same losses and gradients from the same weights and images in float32.

`forward` is the plain network by its running statistics; `forward + backward` is its loss and
gradients with the statistics of the batch, without an optimiser. Both are float32, and PyTorch's
without `torch.compile`.
"""

import argparse
import copy
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness
from oass_jax import command_line
from oass_jax.errors import UserError

# Of the relative differences. Rounding reaches gradients by ReLUs and max-pools that turn out the
# other way.
TOLERANCE = {"class maps": 1e-4, "losses": 1e-4, "gradients": 1e-2}
OURS = ("max", "puzzlecam", "supervised")
THEIRS = ("puzzlecam", "supervised")


def main() -> None:
    """Compares what the two compute, then how fast."""
    options = parse()
    on_gpu = choose_device()
    options.compile = on_gpu if options.compile is None else options.compile
    programs = Programs(options, on_gpu=on_gpu)
    differences = programs.differences()
    check(differences)

    runs = {f"ours {page}": harness.Step(page, options).run for page in OURS}
    runs |= {f"torch {page}": programs.torch_step(page) for page in THEIRS}
    times = harness.in_turns(runs | programs.passes(), options.repeats)

    rows = []
    for name, seconds in times.items():
        rate = f"{options.batch_size / np.median(seconds):.1f}"
        rows.append([f"{name}, s", harness.spread(seconds), rate, ""])
    ratios = compare(times)
    goals = goals_of(on_gpu)
    rows += [[name, harness.spread(ratio), "", goals[name]] for name, ratio in ratios.items()]
    rows += [
        [f"{name}, relative difference", f"{value:.1e}", "", f"at most {TOLERANCE[name]}"]
        for name, value in differences.items()
    ]
    harness.report(
        "torch_puzzlecam",
        options,
        ["what", "median (range)", "images/s", "goal"],
        rows,
        torch=programs.version,
        seconds={name: seconds.tolist() for name, seconds in times.items()},
        ratios={name: ratio.tolist() for name, ratio in ratios.items()},
        differences=differences,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = harness.parser(__doc__)
    parser.set_defaults(batch_size=8)
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="PyTorch's steps by torch.compile; without either, on a GPU only",
    )
    return parser.parse_args()


def choose_device() -> bool:
    """Makes both run on the same device, before either is imported; whether that is a GPU."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # ours shares a batch among all there are
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # leaves memory to PyTorch
    # PyTorch's threads wait for each other spinning, which on shared cores makes it times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            "this benchmark needs torch: pip install -r benchmarks/requirements.txt"
        ) from error
    if not torch.cuda.is_available():
        os.environ["JAX_PLATFORMS"] = "cpu"
    torch.set_num_threads(os.cpu_count())
    torch.backends.cudnn.benchmark = True
    import jax

    return jax.default_backend() == "gpu"


class Programs:
    """Ours and PyTorch's, with the same weights, images and labels.

    Attributes:
      version: of torch.
    """

    def __init__(self, options: argparse.Namespace, *, on_gpu: bool):
        """Makes weights and a batch, and puts them on the device.

        Args:
          options: from `parse`.
          on_gpu: whether that is the device.
        """
        import jax
        import torch

        from oass_jax import config_file
        from oass_jax.image import augment
        from oass_jax.run import build

        self.version = torch.__version__
        self._options = options
        config = self._config = config_file.load("puzzlecam")
        config.model.encoder = options.encoder
        config.model.dtype = "float32"
        config.keypoint.margin_cells = 1
        config.loss.alpha_re_ramp_epochs = 0.0  # it weighs nothing in a first step else
        self._network = build.create_network(config, harness.NUM_CLASSES)
        self._variables = calm(build.init_variables(self._network, 0))

        num, px = options.batch_size, options.image_px
        pixels = np.random.default_rng(0).integers(0, 256, (num, px, px, 3), np.uint8)
        self._label = harness.label_with(round(harness.POSITIVES * num), num)
        self._images = jax.jit(augment.keep_images)(pixels, np.full((num, 2), px))
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._torch_pixels = torch.tensor(pixels, device=self._device)
        self._torch_label = torch.tensor(self._label, device=self._device).float()
        self._torch_network = self._create_torch_network()

    def differences(self) -> dict[str, float]:
        """Relative differences of what the two compute, named as in `TOLERANCE`."""
        import jax
        import torch

        # Not in TF32, which both may use for float32 where they are timed.
        with (
            jax.default_matmul_precision("highest"),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            ours, theirs = self._our_results(), self._torch_results()
        return {name: relative_difference(ours[name], theirs[name]) for name in TOLERANCE}

    def torch_step(self, page: str) -> Callable[[], float]:
        """A function that runs one of PyTorch's training steps and returns its seconds.

        Args:
          page: supervised or puzzlecam.
        """
        from benchmarks import torch_resnet

        losses = {"supervised": torch_resnet.supervised, "puzzlecam": self._torch_puzzlecam()}
        optimizer = self._config.optimizer
        step = torch_resnet.Step(
            copy.deepcopy(self._torch_network),
            losses[page],
            self._torch_pixels,
            self._torch_label,
            encoder_rate=optimizer.encoder_learning_rate,
            head_rate=optimizer.head_learning_rate,
            weight_decay=optimizer.weight_decay,
            dtype=self._options.dtype,
            compiled=self._options.compile,
        )
        return self._timed_by_torch(step.run)

    def passes(self) -> dict[str, Callable[[], float]]:
        """Functions that run the plain network of either and return their seconds."""
        import jax
        import torch

        from benchmarks import torch_resnet
        from oass_jax.method import loss

        network, variables, label = self._network, self._variables, jax.device_put(self._label)

        @jax.jit
        def forward(variables: Any, images: jax.Array) -> jax.Array:
            return network.apply(variables, images, train=False)["cam"]

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def forward_backward(params: Any, batch_stats: Any, images: jax.Array) -> Any:
            output, updated = network.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return loss.classification(output["logits"]["base"], label), updated

        torch_images = torch_resnet.normalise(self._torch_pixels)
        torch_eval = copy.deepcopy(self._torch_network).eval()
        torch_train = copy.deepcopy(self._torch_network).train()
        parameters = list(torch_train.parameters())

        def torch_forward() -> torch.Tensor:
            with torch.inference_mode():
                return torch_eval(torch_images)

        def torch_forward_backward() -> Any:
            losses = torch_resnet.supervised(torch_train, torch_images, self._torch_label)
            return torch.autograd.grad(losses["loss"], parameters)

        arguments = variables["params"], variables["batch_stats"], self._images
        return {
            "ours forward": timed_by_jax(lambda: forward(variables, self._images)),
            "torch forward": self._timed_by_torch(torch_forward),
            "ours forward + backward": timed_by_jax(lambda: forward_backward(*arguments)),
            "torch forward + backward": self._timed_by_torch(torch_forward_backward),
        }

    def _our_results(self) -> dict[str, Any]:
        """What `TOLERANCE` names, of the untrained network."""
        import jax
        import optax
        from jax.sharding import Mesh

        from oass_jax.run import state
        from oass_jax.training import build as training_build
        from oass_jax.training import step
        from oass_jax.training.method import Views

        num, px = self._images.shape[:2]
        views = Views(
            self._images,
            self._label,
            window=np.broadcast_to([0, px], (num, 2, 2)),
            boxes=np.zeros((num, 1, 4), np.float32),
            box_label=np.full((num, 1), -1),
        )
        first = state.create_state(
            self._variables, tx=optax.identity(), rng=jax.random.PRNGKey(0), teacher="siamese"
        )
        mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
        schedule = training_build.create_schedule(self._config, 10_000)
        method = training_build.create_method(self._config, schedule, mesh)
        loss_fn = functools.partial(step.total_loss, network=self._network, method=method)
        loss_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
        (_, (_, metrics)), grads = loss_fn(first.params, first, views)
        forward = jax.jit(functools.partial(self._network.apply, train=False))
        return {
            "class maps": {"cam": forward(self._variables, self._images)["cam"]},
            "losses": {name: value for name, value in metrics.items() if "loss" in name},
            "gradients": torch_layout({"params": grads}),
        }

    def _torch_results(self) -> dict[str, Any]:
        """The same of PyTorch, with the same names and layouts."""
        import torch

        from benchmarks import torch_resnet

        images = torch_resnet.normalise(self._torch_pixels)
        network = copy.deepcopy(self._torch_network)
        with torch.inference_mode():
            cam = network.eval()(images)
        losses = self._torch_puzzlecam()(network.train(), images, self._torch_label)
        losses["loss"].backward()
        return {
            "class maps": {"cam": cam.permute(0, 2, 3, 1).cpu().numpy()},
            "losses": {name: value.item() for name, value in losses.items()},
            "gradients": {name: p.grad.cpu().numpy() for name, p in network.named_parameters()},
        }

    def _create_torch_network(self) -> Any:
        import torch

        from benchmarks import torch_resnet

        encoder = torch_resnet.like(self._network.encoder)
        network = torch_resnet.Network(encoder, harness.NUM_CLASSES)
        given = {name: torch.tensor(x) for name, x in torch_layout(self._variables).items()}
        network.load_state_dict(network.state_dict() | given)
        return network.to(self._device, memory_format=torch.channels_last)

    def _torch_puzzlecam(self) -> Callable:
        from benchmarks import torch_resnet

        weights = self._config.loss
        return functools.partial(
            torch_resnet.puzzlecam, alpha_p=weights.alpha_p, alpha_re=weights.alpha_re
        )

    def _timed_by_torch(self, run: Callable[[], Any]) -> Callable[[], float]:
        import torch

        wait = torch.cuda.synchronize if self._device.type == "cuda" else lambda: None

        def seconds() -> float:
            wait()
            began = time.perf_counter()
            run()
            wait()
            return time.perf_counter() - began

        return seconds


def timed_by_jax(run: Callable[[], Any]) -> Callable[[], float]:
    """A function that runs another and returns its seconds, those of its results included."""
    import jax

    def seconds() -> float:
        began = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - began

    return seconds


def calm(variables: Any) -> Any:
    """Weakens each residual branch to a tenth, by its last normalisation.

    In an untrained ResNet-50 rounding grows so much that float32 gradients are 3 % off; so they are
    0.2 % off.
    """
    import jax

    def weaken(path: tuple, x: jax.Array) -> jax.Array:
        *_, block, norm, leaf = (key.key for key in path)
        last = "bn3" if "bn3" in variables["params"]["encoder"].get(block, {}) else "bn2"
        return 0.1 * x if (norm, leaf) == (last, "scale") else x

    return jax.tree_util.tree_map_with_path(weaken, variables)


def torch_layout(variables: Any) -> dict[str, np.ndarray]:
    """Our variables, or gradients, by the names and in the layouts of `torch_resnet.Network`.

    Args:
      variables: by collection, such as `{'params': {'encoder': ..., 'head': ...}}`.

    Returns:
      Such as `encoder.conv1.weight` `[out, in, 7, 7]` and `head.weight` `[C, D, 1, 1]`.
    """
    from flax.traverse_util import flatten_dict

    from oass_jax.model.resnet import ResNet

    arrays = {}
    for (_, *path), value in flatten_dict(variables).items():
        array = np.asarray(value)
        if array.ndim == 2:  # the head is a dot
            array = array[None, None]
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        arrays[ResNet.foreign_name(path)] = array
    return arrays


def relative_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The norm of the difference over the norm, of all arrays of the same names together."""
    pairs = {name: (np.asarray(ours[name]), np.asarray(theirs[name])) for name in ours | theirs}
    difference = sum(np.square(a - b, dtype=np.float64).sum() for a, b in pairs.values())
    whole = sum(np.square(b, dtype=np.float64).sum() for _, b in pairs.values())
    return float(np.sqrt(difference / whole))


def check(differences: dict[str, float]) -> None:
    """Ends the benchmark where the two do not compute the same.

    Args:
      differences: named as in `TOLERANCE`.
    """
    for name, value in differences.items():
        if not value <= TOLERANCE[name]:
            command_line.fail(
                f"the {name} of the two programs differ by {value:.1e} (relative), more "
                f"than {TOLERANCE[name]}: they do not compute the same, so nothing was timed"
            )


def compare(times: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Ratios of neighbours in time, named as in `goals_of`.

    Args:
      times: name -> seconds `[repeats]`.
    """

    def rate(ours: str, theirs: str) -> np.ndarray:
        return times[f"torch {theirs}"] / times[f"ours {ours}"]

    def relative(name: str) -> np.ndarray:
        return times[f"ours {name}"] / times[f"torch {name}"]

    return {
        "images/s of ours max / torch puzzlecam": rate("max", "puzzlecam"),
        "images/s of ours / torch puzzlecam": rate("puzzlecam", "puzzlecam"),
        "images/s of ours / torch supervised": rate("supervised", "supervised"),
        "time of ours / torch forward": relative("forward"),
        "time of ours / torch forward + backward": relative("forward + backward"),
    }


def goals_of(on_gpu: bool) -> dict[str, str]:
    """What the ratios of `compare` should be; an empty text where there is no goal."""
    return {
        "images/s of ours max / torch puzzlecam": "1.5, better 2" if on_gpu else "at least 1",
        "images/s of ours / torch puzzlecam": "",
        "images/s of ours / torch supervised": "",
        "time of ours / torch forward": "at most 1.2, better 1",
        "time of ours / torch forward + backward": "at most 2, better 1.3",
    }


if __name__ == "__main__":
    harness.run(main)
