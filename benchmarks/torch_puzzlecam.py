"""Our steps against PuzzleCAM in plain PyTorch, on the same device in the same run.

    python -m benchmarks.torch_puzzlecam --image_px=128 --batch_size=8

Both run on one GPU where both see it, else on the CPU. PyTorch's step (`torch_resnet.py`) has what
its users know to be fast: channels last, autocast for bfloat16, a fused optimiser, and on a GPU
`torch.compile`. It is spared the random resize, crop and flip that ours does on the device, and
under bfloat16 its class maps are bfloat16 where ours stay float32. Before anything is timed, both
must compute the same class maps, losses and gradients from the same weights and images in float32.
"""

import copy
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness
from oass_jax.errors import UserError

# Of the relative differences. Rounding reaches gradients by ReLUs and max-pools that turn out the
# other way.
TOLERANCE = {"class maps": 1e-4, "losses": 1e-4, "gradients": 1e-2}


def main() -> None:
    """Compares what the two compute, then how fast."""
    parser = harness.parser(__doc__)
    parser.set_defaults(batch_size=8)
    options = parser.parse_args()
    on_gpu = choose_device()
    from oass_jax import config_file
    from oass_jax.run import build

    config = config_file.load("puzzlecam")
    config.model.encoder = options.encoder
    config.model.dtype = "float32"
    config.keypoint.margin_cells = 1
    config.loss.alpha_re_ramp_epochs = 0.0  # it weighs nothing in a first step else
    network = build.create_network(config, harness.NUM_CLASSES)
    variables = calm(build.init_variables(network, 0))
    batch = harness.random_batch(options.batch_size, options.image_px)
    theirs = Torch(config, network.encoder, variables, batch, on_gpu=on_gpu)
    differences = compare(our_results(config, network, variables, batch), theirs.results())

    runs = {f"ours {name}": harness.Step(name, options).run for name in ("max", "puzzlecam")}
    runs["torch puzzlecam"] = theirs.step(options.dtype)
    times = harness.in_turns(runs, options.repeats)
    rows = []
    for name, seconds in times.items():
        rate = f"{options.batch_size / np.median(seconds):.1f}"
        ratio = harness.spread(times["torch puzzlecam"] / seconds)
        rows.append([f"{name}, s", harness.spread(seconds), rate, ratio])
    rows += [[f"{name}, difference", f"{value:.1e}", "", ""] for name, value in differences.items()]
    harness.report(
        "torch_puzzlecam",
        options,
        ["what", "median (range)", "images/s", "rate / torch puzzlecam"],
        rows,
        torch=theirs.version,
        seconds={name: seconds.tolist() for name, seconds in times.items()},
        differences=differences,
    )


def choose_device() -> bool:
    """Makes both run on the same device, before either is imported; whether that is a GPU.

    Raises:
      UserError: torch is not installed.
    """
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


class Torch:
    """PyTorch's network and batch: the same weights, images and labels.

    Attributes:
      version: of torch.
    """

    def __init__(self, config: Any, encoder: Any, variables: Any, batch: dict, *, on_gpu: bool):
        """Puts all on the device.

        Args:
          config: of PuzzleCAM.
          encoder: of our network.
          variables: of our network.
          batch: from `harness.random_batch`.
          on_gpu: whether that is the device.
        """
        import torch

        from benchmarks import torch_resnet

        self.version = torch.__version__
        self._config, self._on_gpu = config, on_gpu
        device = torch.device("cuda" if on_gpu else "cpu")
        self._pixels = torch.tensor(batch["image"], device=device)
        self._label = torch.tensor(batch["label"], device=device).float()
        network = torch_resnet.Network(encoder, harness.NUM_CLASSES)
        given = {name: torch.tensor(x) for name, x in torch_layout(variables).items()}
        network.load_state_dict(network.state_dict() | given)
        self._network = network.to(device, memory_format=torch.channels_last)
        self._losses = functools.partial(
            torch_resnet.puzzlecam, alpha_p=config.loss.alpha_p, alpha_re=config.loss.alpha_re
        )

    def step(self, dtype: str) -> Callable[[], float]:
        """A function that runs a training step and returns its seconds."""
        import torch

        from benchmarks import torch_resnet

        network = copy.deepcopy(self._network).train()
        loss_fn = torch.compile(self._losses) if self._on_gpu else self._losses
        groups = torch_resnet.parameter_groups(network, self._config.optimizer)
        adam = torch.optim.AdamW(groups, fused=True)
        device = self._pixels.device.type
        autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

        def run() -> float:
            began = time.perf_counter()
            adam.zero_grad(set_to_none=True)
            with autocast:
                losses = loss_fn(network, torch_resnet.normalise(self._pixels), self._label)
            losses["loss"].backward()
            adam.step()
            if self._on_gpu:
                torch.cuda.synchronize()
            return time.perf_counter() - began

        return run

    def results(self) -> dict[str, dict[str, Any]]:
        """What `TOLERANCE` names."""
        import torch

        from benchmarks import torch_resnet

        images = torch_resnet.normalise(self._pixels)
        network = copy.deepcopy(self._network)
        # Not in TF32, which is allowed where it is timed.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            with torch.inference_mode():
                cam = network.eval()(images)
            losses = self._losses(network.train(), images, self._label)
            losses["loss"].backward()
        return {
            "class maps": {"cam": cam.permute(0, 2, 3, 1).cpu().numpy()},
            "losses": {name: value.item() for name, value in losses.items()},
            "gradients": {name: p.grad.cpu().numpy() for name, p in network.named_parameters()},
        }


def our_results(config: Any, network: Any, variables: Any, batch: dict) -> dict[str, dict]:
    """What `TOLERANCE` names, with torch's names and layouts; arguments as of `Torch`."""
    import jax
    import optax
    from jax.sharding import Mesh

    from oass_jax.image import augment
    from oass_jax.run import state
    from oass_jax.training import build as training_build
    from oass_jax.training import step
    from oass_jax.training.method import Views

    num, px = batch["image"].shape[:2]
    images = jax.jit(augment.keep_images)(batch["image"], batch["size"])
    window = np.broadcast_to([0, px], (num, 2, 2))
    views = Views(images, batch["label"], window, batch["boxes"], batch["box_label"])
    first = state.create_state(
        variables, tx=optax.identity(), rng=jax.random.PRNGKey(0), teacher="siamese"
    )
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    schedule = training_build.create_schedule(config, 10_000)
    method = training_build.create_method(config, schedule, mesh)
    loss_fn = functools.partial(step.total_loss, network=network, method=method)
    with jax.default_matmul_precision("highest"):  # not in TF32, as where it is timed
        (_, (_, metrics)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
            first.params, first, views
        )
        cam = jax.jit(functools.partial(network.apply, train=False))(variables, images)["cam"]
    return {
        "class maps": {"cam": cam},
        "losses": {name: value for name, value in metrics.items() if "loss" in name},
        "gradients": torch_layout({"params": grads}),
    }


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


def compare(ours: dict[str, dict], theirs: dict[str, dict]) -> dict[str, float]:
    """Relative differences of what the two compute, named as in `TOLERANCE`.

    Raises:
      UserError: they do not compute the same.
    """
    differences = {name: relative_difference(ours[name], theirs[name]) for name in TOLERANCE}
    for name, value in differences.items():
        if not value <= TOLERANCE[name]:
            raise UserError(
                f"the {name} of the two programs differ by {value:.1e} (relative), more than "
                f"{TOLERANCE[name]}: they do not compute the same, so nothing was timed"
            )
    return differences


def relative_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The norm of the difference over the norm, of all arrays of the same names together."""
    pairs = {name: (np.asarray(ours[name]), np.asarray(theirs[name])) for name in ours | theirs}
    difference = sum(np.square(a - b, dtype=np.float64).sum() for a, b in pairs.values())
    whole = sum(np.square(b, dtype=np.float64).sum() for _, b in pairs.values())
    return float(np.sqrt(difference / whole))


if __name__ == "__main__":
    harness.run(main)
