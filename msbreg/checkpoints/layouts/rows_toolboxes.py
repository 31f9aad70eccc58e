"""Layouts of toolboxes: OpenMMLab, VISSL, solo-learn, lightly and plain Lightning."""

from msbreg.checkpoints.layouts import names
from msbreg.checkpoints.layouts.format import Encoder, Format
from msbreg.checkpoints.layouts.rows_methods import QUERY

# Modules of OpenSelfSup, MMSelfSup, MMPretrain and MMSegmentation other than the backbone.
MM_DROPPED = (
    "neck.*",
    "head.*",
    "head_*",
    "decode_head.*",
    "auxiliary_head.*",
    "encoder_q.1.*",
    "encoder_k.*",
    "online_net.1.*",
    "target_net.*",
    "target_generator.*",
    "momentum_encoder.*",
    "base_encoder.1.*",
    "encoder.1.*",
    "encoder.2.*",
    "projector.*",
    "projector_ema.*",
    "predictor.*",
    "queue",
    "queue_*",
    "queue2*",
    "memory_bank.*",
    "data_preprocessor.*",
)
MM_MOMENTUM = ("encoder_k.0.", "target_net.0.", "momentum_encoder.0.")

OPENMMLAB = (
    Format(
        "openmmlab",
        covers="OpenSelfSup, MMSelfSup, MMPretrain and descendants (DenseCL, ORL): training files; "
        "MMSegmentation",
        source="open-mmlab/mmselfsup models/algorithms; WXinlong/DenseCL openselfsup/models; "
        "open-mmlab/mmsegmentation models/segmentors",
        entry=("state_dict",),
        encoders=(
            Encoder("backbone", "backbone."),
            *(Encoder(f"momentum ({prefix.rstrip('.')})", prefix) for prefix in MM_MOMENTUM),
            Encoder("not averaged", "backbone.", (("ema_state_dict",),)),
        ),
        why="the toolbox's benchmarks load `backbone` (the average, with mmengine's EMA hook)",
        top=("meta",),
        aliases=("encoder_q.0.", "online_net.0.", "base_encoder.0.", "encoder.0."),
        dropped=MM_DROPPED,
    ),
    Format(
        "openmmlab-extracted",
        covers="backbones extracted from the above, DetCo",
        source="WXinlong/DenseCL tools/extract_backbone_weights.py; xieenze/DetCo benchmarks [?]",
        entry=("state_dict",),
        encoders=(Encoder("backbone", ""),),
        top_without=("arch", "epoch", "optimizer", "lemniscate", "pytorch-lightning_version"),
        without=("fc.*", "projection_head.*"),
        heads=(),
        note="the file does not state its input normalization: ImageNet's is assumed",
    ),
)

VISSL_TRUNK = ("classy_state_dict", "base_model", "model", "trunk")

VISSL_LOSS = ("classy_state_dict", "loss")

VISSL = (
    Format(
        "vissl-dino",
        covers="VISSL: training files of DINO",
        source="facebookresearch/vissl vissl/losses/dino_loss.py [?]",
        entry=VISSL_LOSS,
        encoders=(
            Encoder("teacher", "momentum_teacher.trunk._feature_blocks."),
            Encoder("student", "_feature_blocks.", (VISSL_TRUNK,)),
        ),
        why="DINO evaluates its teacher, which VISSL stores in the state of the loss",
        marks=("momentum_teacher.*",),
        dropped=("momentum_teacher.heads.*", "center", "*criterion*"),
    ),
    Format(
        "vissl",
        covers="VISSL: training files (PIRL, SimCLR, SwAV, MoCo, ...)",
        source="facebookresearch/vissl vissl/hooks/log_hooks.py, models/base_ssl_model.py",
        entry=VISSL_TRUNK,
        encoders=(
            Encoder("trunk", "_feature_blocks."),
            Encoder("momentum", "moco_encoder.trunk._feature_blocks.", (VISSL_LOSS,)),
        ),
        why="VISSL evaluates the trunk; MoCo's key encoder is in the state of the loss",
        absent=((VISSL_LOSS, "momentum_teacher.*"),),
    ),
    Format(
        "vissl-evaluation",
        covers="VISSL: files from linear evaluation and feature extraction",
        source="facebookresearch/vissl vissl/models/trunks/feature_extractor.py",
        entry=VISSL_TRUNK,
        encoders=(Encoder("trunk", "base_model._feature_blocks."),),
    ),
    Format(
        "vissl-converted",
        covers="VISSL: converted_vissl_* files of the model zoo",
        source="facebookresearch/vissl extra_scripts/convert_caffe2_to_torchvision_resnet.py",
        entry=("model_state_dict",),
        encoders=(Encoder("trunk", "_feature_blocks."),),
        note="files converted from Caffe2 may be BGR or have stride in the 1x1; verify with a known score",
    ),
)

LIGHTNING_DROPPED = ("n_averaged",)

SOLO_DROPPED = (
    "projector*",
    "momentum_projector*",
    "predictor*",
    "momentum_predictor*",
    "classifier.*",
    "momentum_classifier.*",
    "prototypes.*",
    "head.*",
    "momentum_head.*",
    "queue",
    "queue_*",
    "local_memory_*",  # DeepCluster-v2
    "whitening.*",
    "dino_loss_func.*",
    "loss_func.*",
    "transformer_encoder.*",  # All4One
    "pos_enc.*",
    *LIGHTNING_DROPPED,
)

LIGHTNING = (
    Format(
        "solo-learn",
        covers="solo-learn",
        source="vturrisi/solo-learn solo/methods/base.py",
        entry=("state_dict",),
        encoders=(Encoder("online", "backbone."), Encoder("momentum", "momentum_backbone.")),
        why=QUERY,
        top=("pytorch-lightning_version",),
        marks=("classifier.*",),
        without=("student_backbone.*",),
        dropped=SOLO_DROPPED,
    ),
    Format(
        "solo-learn-old",
        covers="solo-learn before 1.0.4: `encoder.` instead of `backbone.`",
        source="vturrisi/solo-learn main_linear.py",
        entry=("state_dict",),
        encoders=(Encoder("online", "encoder."), Encoder("momentum", "momentum_encoder.")),
        why=QUERY,
        top=("pytorch-lightning_version",),
        marks=("classifier.*",),
        dropped=SOLO_DROPPED,
    ),
    Format(
        "lightly",
        covers="lightly: benchmark checkpoints",
        source="lightly-ai/lightly benchmarks/imagenet/resnet50",
        entry=("state_dict",),
        encoders=(
            Encoder("online", "backbone."),
            Encoder("momentum (teacher_backbone)", "teacher_backbone."),
            Encoder("momentum (key_backbone)", "key_backbone."),
            Encoder("momentum (backbone_momentum)", "backbone_momentum."),
        ),
        why=QUERY,
        top=("pytorch-lightning_version",),
        marks=("*_head*",),
        without=("student_backbone.*", "classifier.*"),
        dropped=(
            "*_head*",
            "prototypes.*",
            "online_classifier.*",
            "criterion.*",
            *LIGHTNING_DROPPED,
        ),
    ),
    Format(
        "lightly-dino",
        covers="lightly: DINO",
        source="lightly-ai/lightly benchmarks/imagenet/resnet50/dino.py",
        entry=("state_dict",),
        encoders=(Encoder("teacher", "backbone."), Encoder("student", "student_backbone.")),
        why="DINO evaluates its teacher, which lightly stores in `backbone`",
        top=("pytorch-lightning_version",),
        marks=("student_backbone.*",),
        dropped=("*head.*", "online_classifier.*", "criterion.*", *LIGHTNING_DROPPED),
    ),
    Format(
        "lightly-examples",
        covers="lightly: examples/ (the backbone is an nn.Sequential of the ResNet's children)",
        source="lightly-ai/lightly examples/pytorch_lightning",
        entry=("state_dict",),
        encoders=(Encoder("online", "backbone."), Encoder("momentum", "backbone_momentum.")),
        why=QUERY,
        names=names.children,
        top=("pytorch-lightning_version",),
        without=("student_backbone.*",),
        dropped=("*head*", "*prototypes*", "memory_bank.*", "criterion.*", *LIGHTNING_DROPPED),
    ),
    Format(
        "lightly-examples-dino",
        covers="lightly: examples/ of DINO",
        source="lightly-ai/lightly examples/pytorch_lightning/dino.py",
        entry=("state_dict",),
        encoders=(Encoder("teacher", "teacher_backbone."), Encoder("student", "student_backbone.")),
        why="DINO evaluates its teacher",
        names=names.children,
        top=("pytorch-lightning_version",),
        dropped=("*head.*", "criterion.*", *LIGHTNING_DROPPED),
    ),
    Format(
        "lightning",
        covers="a Lightning module with a single `backbone`",
        source="Lightning-AI/pytorch-lightning trainer/connectors/checkpoint_connector.py",
        entry=("state_dict",),
        encoders=(Encoder("backbone", "backbone."),),
        top=("pytorch-lightning_version",),
        without=("*head*", "classifier.*", "*backbone_momentum*", "*_backbone.*"),
        dropped=LIGHTNING_DROPPED,
    ),
)
