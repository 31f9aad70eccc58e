"""A segmentation card as a config of MMSegmentation, so that its own tools can repeat a run.

Nothing of MMSegmentation is imported. What the library lacks (our sources of label maps, random multiples of
an image's own size, small stems) is in ``mmseg_engine``, which the config imports.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from pprint import pformat

from msbreg.backbones.spec import BackboneSpec
from msbreg.checkpoints.convert.target import Settings
from msbreg.checkpoints.convert.to_mmseg import MMSEG
from msbreg.data.segmentation.label_maps import VOID
from msbreg.data.segmentation.map_sources import MAP_SOURCES
from msbreg.data.sources import EMBEDDED, split_layout
from msbreg.run.errors import UserError
from transfer.segmenters.fcn import AUXILIARY_CHANNELS, STEM_STRIDES
from transfer.segmenters.segmentation_config import Config, InferenceOptions, NetworkOptions, Size
from transfer.segmenters.segmenter_training import STEP_FACTOR

FILE = "mmseg_config.py"
BACKBONE_FILE = "backbone_mmseg.pth"
"""Where the config expects the converted backbone, relative to MMSegmentation's working directory."""
ENGINE_MODULE = "transfer.segmenters.mmseg_engine"
WIDTH = 100  # columns of the written file


def refusal(options: NetworkOptions) -> str:
    """Why MMSegmentation has no counterpart of a head; empty if it has one."""
    if options.head == "linear":
        return "network.head is linear, and MMSegmentation has no head of BatchNorm and a 1x1 classifier"
    if options.convolutions == 0:
        return (
            "network.convolutions is 0, and MMSegmentation's FCNHead without convolutions cannot change the "
            "number of channels"
        )
    return ""


def check(spec: BackboneSpec, options: NetworkOptions) -> None:
    """Check that MMSegmentation can build the network.

    Raises:
        UserError: it cannot; the message states the reason.
    """
    a = spec.architecture
    reason = refusal(options)
    if not reason and (a.depth == 200 or a.inner != 1):
        reason = (
            f"the backbone is a {spec.arch}, and MMSegmentation has no ResNet-200 or Wide ResNet"
        )
    if reason:
        raise UserError(f"{reason}.\nGive --engine torchvision, which builds the same card.")


# ---- The network


def network_config(
    spec: BackboneSpec, classes: int, options: NetworkOptions, *, norm: str = "BN"
) -> Settings:
    """The settings of an EncoderDecoder, without those of data and inference.

    Raises:
        UserError: MMSegmentation has no such network.
    """
    check(spec, options)
    width = spec.architecture.channels
    settings: Settings = {
        "type": "EncoderDecoder",
        "backbone": _backbone(spec, options, norm),
        "decode_head": _head(classes, options, norm, width["c5"], index=3, weight=1.0),
    }
    if options.auxiliary:
        plain = replace(
            options, channels=AUXILIARY_CHANNELS, convolutions=1, dilation=1, concatenate=False
        )
        settings["auxiliary_head"] = _head(
            classes, plain, norm, width["c4"], index=2, weight=options.auxiliary
        )
    return settings


def _backbone(spec: BackboneSpec, options: NetworkOptions, norm: str) -> Settings:
    a = spec.architecture
    stem: Settings = {"type": "ResNet"}
    if a.stem != "imagenet":
        stem = {"type": "SmallStemResNet", "small_stem": a.stem}
    strides, dilations = strides_and_dilations(STEM_STRIDES[a.stem], options.output_stride)
    return {
        **stem,
        "depth": a.depth,
        "stem_channels": a.width,
        "base_channels": a.width,
        "strides": strides,
        "dilations": dilations,
        "contract_dilation": options.contract_dilation,
        "style": "caffe" if spec.stride_in_1x1 else "pytorch",
        "norm_cfg": {"type": norm, "requires_grad": True},
        "norm_eval": options.freeze == "statistics",
        "frozen_stages": 4 if options.freeze == "backbone" else -1,
    }


def strides_and_dilations(stem: int, output_stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations of the four stages, whose last ones are dilated instead of strided.

    >>> strides_and_dilations(4, 8)
    ((1, 2, 1, 1), (1, 1, 2, 4))
    """
    strides, dilations = [1], [1]
    reached, dilation = stem, 1
    for _ in range(3):
        if reached < output_stride:
            reached *= 2
            strides.append(2)
        else:
            dilation *= 2
            strides.append(1)
        dilations.append(dilation)
    if reached != output_stride:
        raise UserError(
            f"network.output_stride is {output_stride}, but the stem of this backbone has stride {stem}; "
            f"expected one of {', '.join(str(stem * 2**k) for k in range(4))}"
        )
    return tuple(strides), tuple(dilations)


def _head(
    classes: int, options: NetworkOptions, norm: str, inputs: int, *, index: int, weight: float
) -> Settings:
    """An FCNHead on stage ``index`` (from 0), whose loss has this weight."""
    return {
        "type": "FCNHead",
        "in_channels": inputs,
        "in_index": index,
        "channels": options.channels,
        "num_convs": options.convolutions,
        "dilation": options.dilation,
        "concat_input": options.concatenate,
        "dropout_ratio": options.dropout,
        "num_classes": classes,
        "norm_cfg": {"type": norm, "requires_grad": True},
        "align_corners": options.align_corners,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight},
    }


# ---- The run


def run_config(
    config: Config,
    spec: BackboneSpec,
    classes: tuple[str, ...],
    rate: float,
    processes: int = 1,
) -> Settings:
    """All variables of a config file: network, data, optimizer, schedule and evaluation.

    Args:
        rate: learning rate of this run.
        processes: number of processes that share the batch; with several, BatchNorm is synchronized.
    """
    model = network_config(
        spec, len(classes), config.network, norm="BN" if processes == 1 else "SyncBN"
    )
    average = config.solver.loss_over == "labeled"
    for head in ("decode_head", "auxiliary_head"):
        if head in model:
            model[head]["loss_decode"]["avg_non_ignore"] = average
    if config.checkpoint != "random" and spec.architecture.stem == "imagenet":
        start = {"type": "Pretrained", "checkpoint": BACKBONE_FILE, "prefix": "backbone."}
        model["backbone"]["init_cfg"] = start
    model["data_preprocessor"] = preprocessor(spec, config.augmentation.crop)
    model |= {"train_cfg": {}, "test_cfg": _windows(config.inference)}
    return {
        "default_scope": "mmseg",
        "custom_imports": {"imports": [ENGINE_MODULE], "allow_failed_imports": False},
        "model": model,
        **_optimization(config, rate),
        **_data(config, processes),
        "default_hooks": _hooks(config),
        "randomness": {"seed": config.seed},
        "log_processor": {"by_epoch": False},
        "env_cfg": {"cudnn_benchmark": True},
    }


def _hooks(config: Config) -> Settings:
    checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": config.save_every}
    return {
        "timer": {"type": "IterTimerHook"},
        "logger": {"type": "LoggerHook", "interval": 50, "log_metric_by_epoch": False},
        "param_scheduler": {"type": "ParamSchedulerHook"},
        "checkpoint": checkpoint,
        "sampler_seed": {"type": "DistSamplerSeedHook"},
    }


def preprocessor(spec: BackboneSpec, crop: Size) -> Settings:
    """Normalization, and the padding of training images."""
    return {
        "type": "SegDataPreProcessor",
        "mean": list(spec.normalization.pixel_mean),
        "std": list(spec.normalization.pixel_std),
        "bgr_to_rgb": spec.normalization.channels == "RGB",  # images are read as BGR
        "pad_val": 0,
        "seg_pad_val": VOID,
        "size": crop,
    }


def _windows(options: InferenceOptions) -> Settings:
    if options.mode != "slide":
        return {"mode": "whole"}
    return {"mode": "slide", "crop_size": options.crop, "stride": options.stride}


def _optimization(config: Config, rate: float) -> Settings:
    solver, total = config.solver, config.solver.iterations
    poly = {"type": "PolyLR", "eta_min": solver.final_rate, "power": solver.power}
    milestones = [round(drop * total) for drop in solver.drops]
    step = {"type": "MultiStepLR", "milestones": milestones, "gamma": STEP_FACTOR}
    schedule = poly if solver.schedule == "poly" else step
    return {
        "optim_wrapper": _optimizer(config, rate),
        "param_scheduler": [schedule | {"begin": 0, "end": total, "by_epoch": False}],
        "train_cfg": {
            "type": "IterBasedTrainLoop",
            "max_iters": total,
            "val_interval": config.evaluate_every or total,
        },
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
    }


def _optimizer(config: Config, rate: float) -> Settings:
    """SGD; rates and decays of the heads are multiples of the backbone's."""
    solver = config.solver
    decay = solver.weight_decay
    heads = decay if solver.head_weight_decay is None else solver.head_weight_decay
    shared = decay or heads  # a multiple of 0 could not express the other
    keys: Settings = {}
    if solver.head_rate != 1 or heads != decay:
        factors = {"lr_mult": solver.head_rate, "decay_mult": heads / shared if shared else 1.0}
        keys = {"decode_head": factors, "auxiliary_head": factors}
    if shared != decay:
        keys["backbone"] = {"decay_mult": 0.0}
    wrapper: Settings = {"type": "OptimWrapper"}
    if config.amp == "bf16":
        wrapper = {"type": "AmpOptimWrapper", "dtype": "bfloat16"}
    momentum = solver.momentum
    wrapper["optimizer"] = {"type": "SGD", "lr": rate, "momentum": momentum, "weight_decay": shared}
    if keys:
        wrapper["paramwise_cfg"] = {"custom_keys": keys}
    return wrapper


def _data(config: Config, processes: int) -> Settings:
    batch = max(1, config.solver.batch_size // processes)
    training = _loader(config, config.train_split, batch, training_pipeline(config))
    training["sampler"] = {"type": "InfiniteSampler", "shuffle": True}
    testing = _loader(config, config.val_split, 1, testing_pipeline(config.inference))
    testing["sampler"] = {"type": "DefaultSampler", "shuffle": False}
    testing["dataset"]["test_mode"] = True
    score = {"type": "IoUMetric", "iou_metrics": ["mIoU"]}
    found: Settings = {
        "train_dataloader": training,
        "val_dataloader": testing,
        "test_dataloader": testing,
        "val_evaluator": score,
        "test_evaluator": score,
    }
    if averages(config.inference):
        found |= {"tta_model": {"type": "SegTTAModel"}, "tta_pipeline": tta(config.inference)}
    return found


def _loader(config: Config, split: str, batch: int, pipeline: list[Settings]) -> Settings:
    """A loader of one split of the card's data."""
    layout, folder = split_layout(config.data or "digits", MAP_SOURCES)
    place = folder if folder in EMBEDDED else str(Path(folder).expanduser().resolve())
    return {
        "batch_size": batch,
        "num_workers": config.workers,
        "persistent_workers": config.workers > 0,
        "dataset": {
            "type": "LabelMapDataset",
            "data": f"{layout}:{place}" if layout else place,
            "split": split,
            "pipeline": pipeline,
        },
    }


def training_pipeline(config: Config) -> list[Settings]:
    """The transforms of training images."""
    options = config.augmentation
    scale: Settings = {"type": "RandomScale", "ratio_range": options.scales}
    if options.base is not None:
        longer, shorter = max(options.base), min(options.base)
        scale = {
            "type": "RandomResize",
            "scale": (longer, shorter),
            "ratio_range": options.scales,
            "keep_ratio": True,
        }
    crop = {
        "type": "RandomCrop",
        "crop_size": options.crop,
        "cat_max_ratio": options.largest_class,
    }
    colors = [{"type": "PhotoMetricDistortion"}] if options.photometric else []
    return [
        {"type": "LoadSourceImage"},
        {"type": "LoadSourceLabels"},
        scale,
        crop,
        {"type": "RandomFlip", "prob": float(options.flip)},
        *colors,
        {"type": "PackSegInputs"},
    ]


def averages(options: InferenceOptions) -> bool:
    """Whether probabilities are averaged over scales or mirror images."""
    return options.flip or len(options.scales) > 1


def testing_pipeline(options: InferenceOptions) -> list[Settings]:
    """The transforms of test images. Labels are loaded after the resizing, which leaves them as they are."""
    scale = 1.0 if averages(options) else options.scales[0]
    return [
        {"type": "LoadSourceImage"},
        *_resize(options.base, scale),
        {"type": "LoadSourceLabels"},
        {"type": "PackSegInputs"},
    ]


def tta(options: InferenceOptions) -> list[Settings]:
    """The transforms of test images at several scales, and mirrored."""
    resized = [
        (_resize(options.base, scale) or [{"type": "Resize", "scale_factor": 1.0}])[0]
        for scale in options.scales
    ]
    flips = [
        {"type": "RandomFlip", "prob": float(flip), "direction": "horizontal"}
        for flip in ((False, True) if options.flip else (False,))
    ]
    last = [[{"type": "LoadSourceLabels"}], [{"type": "PackSegInputs"}]]
    return [
        {"type": "LoadSourceImage"},
        {"type": "TestTimeAug", "transforms": [resized, flips, *last]},
    ]


def _resize(base: Size | None, scale: float) -> list[Settings]:
    if base is not None:
        fitted = (int(max(base) * scale), int(min(base) * scale))
        return [{"type": "Resize", "scale": fitted, "keep_ratio": True}]
    return [] if scale == 1 else [{"type": "Resize", "scale_factor": scale, "keep_ratio": False}]


# ---- The file


def config_text(
    config: Config,
    spec: BackboneSpec,
    classes: tuple[str, ...],
    rate: float,
    processes: int = 1,
) -> str:
    """The config file, as Python."""
    settings = run_config(config, spec, classes, rate, processes)
    head = [
        "The settings of this run for MMSegmentation's tools (tools/train.py and tools/test.py), with this",
        "repository on PYTHONPATH.",
        *_remarks(config, spec),
    ]
    variables = [
        f"{name} = {pformat(value, width=WIDTH, sort_dicts=False)}"
        for name, value in settings.items()
    ]
    return "\n".join([*(f"# {line}" for line in head), "", *variables]) + "\n"


def _remarks(config: Config, spec: BackboneSpec) -> list[str]:
    """What to do before using the file, and what it does not express."""
    remarks = []
    if config.checkpoint != "random":
        if reason := MMSEG.refusal(spec):
            remarks.append(f"Training starts from untrained weights: {reason}.")
        else:
            checkpoint = shlex.quote(str(Path(config.checkpoint).expanduser().resolve()))
            remarks += [
                "Write the backbone first:",
                f"  python tools/convert_to_d2.py {checkpoint} --to mmseg -o {BACKBONE_FILE}",
            ]
    if averages(config.inference):
        remarks.append("The score of the card is that of tools/test.py --tta.")
    if config.amp == "bf16":
        remarks.append("MMSegmentation trains in bfloat16 on GPUs only.")
    inference, network = config.inference, config.network
    different = [
        (inference.mode == "center", "inference.mode center: whole images are scored"),
        (inference.ignore_boundary > 0, "inference.ignore_boundary: boundaries are scored"),
        (
            network.freeze == "statistics",
            "network.freeze statistics: those of the heads are trained",
        ),
        (config.accumulate > 1, "accumulate: batches are not split"),
        (config.channels_last, "channels_last"),
    ]
    return remarks + [f"Not expressed: {text}." for applies, text in different if applies]
