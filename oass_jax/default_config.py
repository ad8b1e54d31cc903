"""Every field, its default and its meaning. The other configs start from here.

Override on the command line: --config.batch_size=16 --config.keypoint.strategy=center
The numbers are those of the paper where it gives them; what it leaves open is marked (*).
"""

import ml_collections

# The words a field accepts, where it does not accept all. Names of data sets are not here: they
# are those of `oass_jax/data/sources`.
CHOICES = {
    "data.difficult": ("positive", "ignore", "negative"),
    "model.dtype": ("float32", "bfloat16"),
    "keypoint.strategy": ("center", "random", "max", "cmax", "ctopk", "ctopk_w", "gt_bbox"),
    "keypoint.classes": ("labelled", "all"),
    "teacher.mode": ("none", "siamese", "ema"),
    "loss.re_reduction": ("masked", "mean"),
    "loss.pcl_classes": ("own", "all"),
    "loss.pos_weight": ("none", "frequency"),
    "eval.difficult": ("positive", "ignore", "negative"),
    "eval.weights": ("student", "ema"),
    "eval.checkpoint": ("last", "best"),
    "eval.logits": ("base", "csi", "graph", "regions", "mean", "max"),
    "eval.competition": ("comp1", "comp2"),
}

# The minimum of a number; 0 where a field is not named.
MINIMUM = {
    "batch_size": 1,
    "num_microbatches": 1,
    "log_every_steps": 1,
    "data.canvas_px": 1,
    "data.max_boxes": 1,
    "augment.image_px": 1,
    "augment.long_side_px": 1,
    "keypoint.margin_cells": 1,
    "keypoint.k": 1,
    "keypoint.window_cells": 1,
    "teacher.chunk_pairs": 1,
    "optimizer.encoder_learning_rate": 1e-12,
    "optimizer.head_learning_rate": 1e-12,
    "eval.image_px": 1,
    "eval.batch_size": 1,
    "eval.scales": 0.1,
    "cam.scales": 0.1,
    "cam.num_thresholds": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": 1,
}

# Fields that say where a host keeps its data, and how it reads it.
OF_HOST = (
    "data.data_dir",
    "data.manual_dir",
    "data.path",
    "data.image_dir",
    "data.num_workers",
    "data.num_threads",
)
# Paths of which the name matters, and not where it lies.
OF_PLACES = ("data.path", "data.image_dir")
# What changes no result. `eval.weights` and the like are recorded by an evaluation.
WITHOUT_EFFECT = frozenset(
    {
        "seed",
        "log_every_steps",
        "data.cache",
        "data.max_boxes",
        "distributed.timeout_s",
        "eval.dataset",
        "eval.split",
        "eval.batch_size",
        "eval.every_epochs",
        "eval.competition",
        "eval.num_pictures",
        "teacher.chunk_pairs",
        "checkpoint.every_steps",
        "checkpoint.keep_last",
        "model.remat",
    }
).union(set(OF_HOST) - set(OF_PLACES))

# Fields that hold any number of numbers, but at least one.
LISTS = ("cam.scales", "eval.scales")


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration: OASS `max` with an EMA teacher on PASCAL VOC 2012."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of initial weights, order of images, and augmentation
    # (*) passes over the training split; need not be whole; 0 for 10 to 60, by the number of images
    config.num_epochs = 120.0
    config.batch_size = 32  # (*) over all devices
    # parts a batch is computed in, one after the other in the memory of one, to make one step;
    # BatchNorm sees one part at a time, all else is as without; many times slower on a CPU
    config.num_microbatches = 1
    config.log_every_steps = 50  # a line on the console and in metrics.jsonl
    _add_input(config)
    _add_method(config)
    _add_run(config)
    return config.lock()


def _add_input(config: ml_collections.ConfigDict) -> None:
    """What comes in, and how it is placed on the canvas of the network."""
    data = config.data = ml_collections.ConfigDict()
    data.dataset = "voc/2012"  # a name in oass_jax/data/sources/__init__.py
    data.split = "train_aug"  # 10,582 images: segmentation train and SBD, without val
    data.data_dir = ""  # where prepared data lies; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
    data.manual_dir = ""  # folder of the tars, if they are not to be downloaded
    data.path = ""  # of csv, coco, voc_folder and tfds: the list or folder; {split} is its name
    data.image_dir = ""  # what file names of a list are relative to; '' is the list's folder
    # where a list does not say which images are for validation: their share, and the choice's seed
    data.val_fraction = 0.2
    data.split_seed = 0
    data.canvas_px = 512  # images are decoded onto a square this large; larger ones are shrunk
    data.max_boxes = 64  # maximum of objects of an image; VOC2012 has up to 56
    # (*) what classes become whose objects are all difficult: positive, ignore, negative
    data.difficult = "positive"
    data.num_workers = 0  # processes that decode; 0 decodes in threads of this one
    data.num_threads = 0  # threads that decode, in each process; 0 for as many as there are cores
    data.cache = False  # keep decoded images in memory: 6 to 8 GB for train_aug; needs 0 workers

    augment = config.augment = ml_collections.ConfigDict()
    augment.image_px = 512  # side of the input, a multiple of twice the encoder's stride: 32
    # images are resized to a long side from this range, inclusive
    augment.long_side_px = (320, 640)
    augment.flip_probability = 0.5  # of exchanging left and right; 0 where that makes another class


def _add_method(config: ml_collections.ConfigDict) -> None:
    """The network, keypoints, teacher and losses."""
    model = config.model = ml_collections.ConfigDict()
    model.encoder = "resnet50"  # a name of ENCODERS in oass_jax/model/encoders.py
    # Of computation: bfloat16 or float32; parameters are float32. Unless
    # JAX_DEFAULT_MATMUL_PRECISION=highest is set, GPUs multiply float32 as TF32, TPUs as bfloat16.
    model.dtype = "bfloat16"
    # Hub name, path of a .safetensors, or the workdir of a run, whose classifier is taken, too, for
    # classes of the same name; '' for none. It has to be of the same encoder: weights of resnet50
    # load into resnet50_v1, too, but were trained with strides in other places.
    model.pretrained = "timm/resnet50.tv_in1k"
    model.remat = False  # compute activations twice instead of keeping them: memory for time
    model.csi = False  # classify class-specific instances, too (Sec. 2.2)
    model.graph = False  # classify by SSGRL's graph over the classes
    model.label_vectors = ""  # .npy with its label vectors, [C, V]; '' learns them

    keypoint = config.keypoint = ml_collections.ConfigDict()
    # center (PuzzleCAM), max (Eq. 1), random; for each label: cmax, ctopk, ctopk_w, gt_bbox
    keypoint.strategy = "max"
    keypoint.classes = "labelled"  # (*) max merges the maps of the image's labels, or of all
    keypoint.k = 5  # (*) maximum number of local maxima of ctopk and ctopk_w
    keypoint.window_cells = 3  # (*) a local maximum is the highest in a square this large; odd
    keypoint.literal_eq = False  # (*) ctopk_w as printed, which divides by k twice
    # (*) cut at the cell's upper left corner; 0.5 at its centre, rounded
    keypoint.offset_cells = 0.0
    keypoint.margin_cells = 4  # (*) minimum height and width of a patch
    keypoint.valid_only = True  # (*) never choose a cell of the padding

    teacher = config.teacher = ml_collections.ConfigDict()
    # ema (OASS), siamese (PuzzleCAM), none (supervised); without patches if both alphas are 0
    teacher.mode = "ema"
    teacher.ema_decay = 0.999  # (*) reached by warm-up, min(ema_decay, (1 + t) / (10 + t))
    # to half the image's sides; else they stay as they are, at four times the cost
    teacher.resize_patches = True
    teacher.chunk_pairs = 8  # (image, class) pairs a device computes together; memory, not results

    regions = config.regions = ml_collections.ConfigDict()
    regions.count = 0  # of MCAR's second stream; 0 for none
    regions.threshold = 0.5  # a region ends where the attention has fallen to this share

    loss = config.loss = ml_collections.ConfigDict()
    loss.alpha_p = 1 / 15  # weight of L_p-cl
    loss.alpha_p_ramp_epochs = 100.0  # from 0 to alpha_p, linearly; 0 for at once
    loss.alpha_re = 1 / 15  # weight of L_re
    loss.alpha_re_ramp_epochs = 100.0  # from 0 to alpha_re, linearly; 0 for at once
    loss.start_epochs = 0.0  # epochs of L_cls alone before either ramp begins
    loss.re_reduction = "masked"  # (*) L_re counts labelled classes (masked) or every class (mean)
    # weight of a class that is present: 1 (none), or by how rare it is, up to 20 (frequency)
    loss.pos_weight = "none"
    loss.pcl_classes = "own"  # (*) a pair's L_p-cl is about its own class, or all


def _add_run(config: ml_collections.ConfigDict) -> None:
    """Optimisation, evaluation and checkpoints."""
    optimizer = config.optimizer = ml_collections.ConfigDict()
    optimizer.encoder_learning_rate = 1e-4  # (*) Adam, after the warm-up
    optimizer.head_learning_rate = 1e-3  # (*) the same for what starts untrained
    optimizer.weight_decay = 1e-4  # (*) decoupled; kernels only
    # the batch size that both rates are for: another one scales them, by the root of the ratio, as
    # suits Adam; 0 leaves them
    optimizer.scale_with_batch = 0
    optimizer.warmup_epochs = 1.0  # (*) linear from 0; then half a cosine to 0

    evaluation = config.eval = ml_collections.ConfigDict()
    evaluation.dataset = config.data.get_oneway_ref("dataset")  # that of training, if none is set
    evaluation.split = "val"  # 1,449 images: segmentation val
    # side of the canvas, a multiple as augment.image_px; larger images are shrunk
    evaluation.image_px = 512
    evaluation.batch_size = 32
    evaluation.difficult = "positive"  # (*) as in data.difficult, for the labels predictions meet
    evaluation.every_epochs = 5.0  # and once at the end; 0 for then alone
    evaluation.weights = "student"  # (*) or ema, for the files that are written
    # base (the mean of the class maps), csi, graph, regions; or mean or max of all there are
    evaluation.logits = "base"
    evaluation.scales = (1.0,)  # sizes of an image whose logits are averaged
    evaluation.flip = False  # average with the mirrored image, too
    evaluation.checkpoint = "last"  # last or best, for --mode=eval
    # images, evenly over the split, that are drawn with their class maps and patches; 0 for none
    evaluation.num_pictures = 8
    # Of the VOC server's files: comp1 if trained with that year's trainval alone, comp2 if with any
    # other image, such as ImageNet's.
    evaluation.competition = "comp2"

    cam = config.cam = ml_collections.ConfigDict()  # --mode=cam; dataset and weights are eval's
    cam.split = "train"  # 1,464 images: segmentation train
    cam.scales = (0.5, 1.0, 1.5, 2.0)  # of each image; their maps are summed
    cam.flip = True  # every scale sees the mirrored image too
    cam.num_thresholds = 100  # between background and class: 0, 1 / num_thresholds, ... below 1
    cam.export = False  # write the maps of every image too, about 1 MB each

    distributed = config.distributed = ml_collections.ConfigDict()  # of several processes
    # a step, a batch of an evaluation or a checkpoint that takes longer, compiling included, has
    # hung: the process ends, to be started again; 0 for never
    distributed.timeout_s = 600.0

    checkpoint = config.checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 500  # and at every evaluation
    checkpoint.keep_last = 2  # beside the best by validation mAP
