"""Layouts of model libraries (torchvision, timm, Hugging Face, Detectron2) and of this suite."""

from msbreg.checkpoints.layouts import names
from msbreg.checkpoints.layouts.format import CAFFE2, MSRA, Encoder, Format

NO_INPUT = "the file does not state its input normalization: ImageNet's is assumed"

LIBRARIES = (
    Format(
        "torchvision",
        covers="a bare ResNet: torchvision, timm, and the backbone files of Barlow Twins (resnet50.pth), "
        "VICReg (resnet50.pth), DINO (dino_resnet50_pretrain.pth) and lucidrains' BYOL",
        source="pytorch/vision torchvision/models/resnet.py",
        encoders=(Encoder("backbone", ""),),
        without=("projection_head.*", "prototypes.*"),
        dropped=("n_averaged",),
        note=NO_INPUT,
    ),
    Format(
        "imagenet-example",
        covers="classifiers trained by PyTorch's ImageNet example; linear evaluations of MoCo and SimSiam",
        source="pytorch/examples imagenet/main.py; facebookresearch/moco main_lincls.py",
        entry=("state_dict",),
        encoders=(Encoder("backbone", ""),),
        top=("arch",),
        top_without=("lemniscate", "meta", "version", "args"),
        without=("projection_head.*",),
    ),
    Format(
        "torchvision-wrapped",
        covers="a bare ResNet with its classifier, saved as {'state_dict': ...} alone",
        source="pytorch/vision torchvision/models/resnet.py",
        entry=("state_dict",),
        encoders=(Encoder("backbone", ""),),
        marks=("fc.weight",),
        top_without=("arch", "epoch", "meta", "optimizer", "lemniscate"),
        without=("projection_head.*",),
        note=NO_INPUT,
    ),
    Format(
        "timm-training",
        covers="timm's train.py (args is a Namespace: needs --trust-pickle)",
        source="huggingface/pytorch-image-models timm/utils/checkpoint_saver.py",
        entry=("state_dict",),
        encoders=(
            Encoder("weights", ""),
            Encoder("average", "", (("state_dict_ema",),)),
        ),
        why="`state_dict` is the trained network; the average exists if timm kept one",
        top=("arch", "args"),
    ),
    Format(
        "huggingface",
        covers="Hugging Face ResNetForImageClassification",
        source="huggingface/transformers models/resnet/modeling_resnet.py",
        encoders=(Encoder("backbone", "resnet."),),
        names=names.huggingface,
        dropped=("classifier.*",),
    ),
    Format(
        "huggingface-base",
        covers="Hugging Face ResNetModel",
        source="huggingface/transformers models/resnet/modeling_resnet.py",
        encoders=(Encoder("backbone", ""),),
        names=names.huggingface,
    ),
    Format(
        "detectron2",
        covers="Detectron2's ImageNetPretrained/torchvision files, and converted files",
        source="facebookresearch/detectron2 tools/convert-torchvision-to-d2.py",
        entry=("model",),
        encoders=(Encoder("backbone", ""),),
        names=names.detectron2,
        heads=("stem.fc.*",),
        note=NO_INPUT,
    ),
    Format(
        "detectron2-msra",
        covers="Detectron2's ImageNetPretrained/MSRA/R-50.pkl",
        source="facebookresearch/detectron2 detectron2/checkpoint/c2_model_loading.py, MODEL_ZOO.md",
        encoders=(Encoder("backbone", ""),),
        names=names.caffe2,
        marks=("res_conv1_bn_gamma",),
        heads=("fc1000_*", "pred_*", "conv1_b", "lr", "model_iter", "*_momentum"),
        normalization=MSRA,
        stride="1x1",
        note="the standard deviation of its input is folded into conv1",
    ),
    Format(
        "caffe2",
        covers="Caffe2 ResNets with _bn_s, _bn_b, _bn_rm, _bn_riv (FAIR's self-supervision benchmark)",
        source="facebookresearch/fair_self_supervision_benchmark resnet_model_helper.py, image_dataset.py",
        encoders=(Encoder("backbone", ""),),
        names=names.caffe2_short,
        marks=("res_conv1_bn_s", "res_conv1_bn_rm"),
        heads=("fc1000_*", "pred_*", "conv1_b", "lr", "model_iter", "*_momentum"),
        normalization=CAFFE2,
        note="stride and BGR input are those of FAIR's benchmark; verify with a known score",
    ),
)

KIND = "msbreg-pretrain"  # the ``kind`` entry of our checkpoints

OURS = (
    Format(
        "msbreg",
        covers="checkpoints of pretrain/run.py",
        source="msbreg/checkpoints/load.py",
        encoders=(
            Encoder("online backbone", "backbone.", (("online",),)),
            Encoder("target backbone", "backbone.", (("target",),)),
        ),
        why="the online network is trained; the target is its moving average",
        top=("schema",),
        top_without=("evaluated",),
        values=(("kind", KIND),),
        heads=(),
        dropped=("projector.*", "predictor.*", "prototypes"),
        states_arch=True,
    ),
    Format(
        "msbreg-target",
        covers="checkpoints of pretrain/run.py by methods that evaluate the moving average (DINO)",
        source="msbreg/checkpoints/load.py",
        encoders=(
            Encoder("target backbone", "backbone.", (("target",),)),
            Encoder("online backbone", "backbone.", (("online",),)),
        ),
        why="the authors evaluate the target network (teacher)",
        top=("schema", "evaluated"),
        values=(("kind", KIND), ("evaluated", "target")),
        heads=(),
        dropped=("projector.*",),
        states_arch=True,
    ),
    Format(
        "msbreg-safetensors",
        covers="backbones published by tools/convert_to_d2.py --to safetensors",
        source="msbreg/checkpoints/convert",
        entry=("state",),
        encoders=(Encoder("backbone", ""),),
        top=("msbreg",),
        heads=(),
        states_arch=True,
    ),
)
