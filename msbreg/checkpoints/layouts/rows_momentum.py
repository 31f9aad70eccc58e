"""Methods with a moving average beside the network, as their own repositories write them."""

from msbreg.checkpoints.layouts import names
from msbreg.checkpoints.layouts.row import ZERO_TO_ONE, Encoder, Format

QUERY = (
    "the query (online) encoder is the one its authors evaluate; the other is its moving average"
)

# A named tuple (online_params, target_params, online_state, target_state, opt_state).
BYOL = ("experiment_state", "args")


def _byol_deepmind(name: str, file: str, prefix: str) -> Format:
    return Format(
        name,
        covers=f"BYOL: DeepMind's {file} (dill of haiku trees; needs --trust-pickle)",
        source="deepmind-research byol/utils/checkpointing.py, networks.py; module root [?]",
        encoders=(
            Encoder("online", prefix, ((*BYOL, 0), (*BYOL, 2))),
            Encoder("target", prefix, ((*BYOL, 1), (*BYOL, 3))),
        ),
        why="DeepMind evaluates online_params with online_state",
        names=names.haiku,
        hwio=True,
        top=("experiment_state",),
        heads=("*/hidden", "*/counter"),
        dropped=("projector/*", "predictor/*", "classifier/*"),
        note="trained with TensorFlow's SAME padding; evaluated, as its converters do, with torchvision's "
        "symmetric padding (pooled features differ by some 7 % on random weights)",
    )


MOMENTUM = (
    Format(
        "moco",
        covers="MoCo v1 and v2, PCL v1 and v2",
        source="facebookresearch/moco main_moco.py, builder.py; salesforce/PCL pcl/builder.py",
        entry=("state_dict",),
        encoders=(Encoder("query", "encoder_q."), Encoder("momentum", "encoder_k.")),
        why=QUERY,
        dropped=("queue", "queue_ptr", "queue2", "queue2_ptr"),
    ),
    Format(
        "moco-v3",
        covers="MoCo v3 (ResNet)",
        source="facebookresearch/moco-v3 moco/builder.py",
        entry=("state_dict",),
        encoders=(Encoder("base", "base_encoder."), Encoder("momentum", "momentum_encoder.")),
        why=QUERY,
        top_without=("meta",),
        without=("backbone.*",),
        dropped=("predictor.*",),
    ),
    Format(
        "pixpro",
        covers="PixPro: training and published files",
        source="zdaxie/PixPro contrast/models/PixPro.py, tools/publish_model.py",
        entry=("model",),
        encoders=(Encoder("online", "encoder."), Encoder("momentum", "encoder_k.")),
        why=QUERY,
        marks=("projector.*",),
        dropped=(
            "projector.*",
            "projector_k.*",
            "projector_instance.*",
            "projector_instance_k.*",
            "value_transform.*",
            "predictor.*",
        ),
    ),
    Format(
        "dino",
        covers="DINO: full training file (ResNet)",
        source="facebookresearch/dino main_dino.py, utils.py",
        encoders=(
            Encoder("teacher", "backbone.", (("teacher",),)),
            Encoder("student", "backbone.", (("student",),)),
        ),
        why="DINO evaluates its teacher (--checkpoint_key is teacher by default)",
        top=("student", "teacher"),
        dropped=("head.*",),
    ),
    Format(
        "obow",
        covers="OBoW: full training file",
        source="valeoai/obow obow/builder_obow.py, feature_extractor.py",
        entry=("network",),
        encoders=(
            Encoder("student", "feature_extractor._feature_blocks."),
            Encoder("teacher", "feature_extractor_teacher._feature_blocks."),
        ),
        why="OBoW evaluates its student",
        names=names.obow,
        dropped=("bow_extractor.*", "bow_predictor.*", "linear_classifier.*"),
    ),
    Format(
        "obow-extractor",
        covers="OBoW: feature_extractor_net_checkpoint files",
        source="valeoai/obow obow/solver.py",
        entry=("network",),
        encoders=(Encoder("student", "_feature_blocks."),),
        names=names.obow,
    ),
    Format(
        "obow-torchvision",
        covers="OBoW: tochvision_resnet50_student files",
        source="valeoai/obow README; its fc is a bag-of-words head, no classifier",
        entry=("network",),
        encoders=(Encoder("student", ""),),
    ),
    _byol_deepmind("byol-deepmind", "pretrain_res50x1.pkl", "res_net50/~/"),
    _byol_deepmind("byol-deepmind-200", "pretrain_res200x2.pkl", "res_net200/~/"),
    Format(
        "byol-yaox12",
        covers="BYOL-PyTorch (yaox12): training files",
        source="yaox12/BYOL-PyTorch trainer/byol_trainer.py, model/byol_model.py",
        entry=("model",),
        encoders=(
            Encoder("online", "online_network.encoder."),
            Encoder("target", "target_network.encoder."),
        ),
        why=QUERY,
        names=names.children,
        dropped=(
            "online_network.projetion.*",
            "online_network.projection.*",
            "target_network.projetion.*",
            "target_network.projection.*",
            "predictor.*",
        ),
    ),
    Format(
        "byol-yaox12-published",
        covers="BYOL-PyTorch (yaox12): resnet50_byol_imagenet2012.pth.tar",
        source="yaox12/BYOL-PyTorch utils/load_and_convert.py",
        encoders=(
            Encoder("online", "", (("online_backbone",),)),
            Encoder("target", "", (("target_backbone",),)),
        ),
        why=QUERY,
        by_order=True,
        top=("online_backbone",),
    ),
    Format(
        "byol-sthalles",
        covers="PyTorch-BYOL (sthalles)",
        source="sthalles/PyTorch-BYOL trainer.py, models/resnet_base_network.py",
        encoders=(
            Encoder("online", "encoder.", (("online_network_state_dict",),)),
            Encoder("target", "encoder.", (("target_network_state_dict",),)),
        ),
        why=QUERY,
        names=names.children,
        normalization=ZERO_TO_ONE,
        top=("online_network_state_dict",),
        dropped=("projetion.*", "projection.*"),
    ),
    Format(
        "byol-sthalles-encoder",
        covers="PyTorch-BYOL (sthalles): the encoder alone",
        source="sthalles/PyTorch-BYOL models/resnet_base_network.py",
        entry=("encoder_state_dict",),
        encoders=(Encoder("online", ""),),
        names=names.children,
        normalization=ZERO_TO_ONE,
        top_without=("online_network_state_dict",),
    ),
    Format(
        "byol-lucidrains",
        covers="byol-pytorch (lucidrains): the whole learner",
        source="lucidrains/byol-pytorch byol_pytorch.py; its fc is untrained",
        encoders=(Encoder("online", "net."), Encoder("target", "target_encoder.net.")),
        why=QUERY,
        marks=("online_encoder.*",),
        aliases=("online_encoder.net.",),
        dropped=("online_encoder.projector.*", "target_encoder.projector.*", "online_predictor.*"),
    ),
)
