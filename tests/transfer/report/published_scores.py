"""Records of two networks and an untrained twin with scores that answer published columns."""

from pathlib import Path

from tests.transfer.report.records import network, score, write_scores

_LINEAR = "linear layer on features of augmented images, learning rate 0.3"
_KNN = "cosine similarity s, {} neighbors, weights exp(s / 0.07)"
# Data, images -> name, rules, and the values of the two networks and of the twin.
SCORES = {
    ("imagenet", "val", 50_000): [
        ("linear top-1", _LINEAR, 71.9, 74.2, 6.2),
        ("20-NN top-1", _KNN.format(20), 62.3, 66.0, 2.1),
    ],
    ("VOC2007", "test", 4952): [
        ("SVM mAP", "mean over classes of the interpolated AP", 86.4, 88.0, 9.4)
    ],
    ("places205", "val", 20_500): [("linear top-1", _LINEAR, 50.1, 52.3, 4.3)],
    ("voc_2007_test", "", 4952): [
        ("box AP50", "VOC 11-point AP", 81.9, 82.6, 52.5),
        ("box AP", "VOC 11-point AP", 55.9, 57.0, 28.1),
    ],
}


def write_published(folder: Path) -> Path:
    """One run per network and score."""
    networks = [
        network(name=name, arch="resnet50", sha256=name, details={"epochs": 100, "seed": 0})
        for name in ("ours 100 epochs", "ours, larger batches")
    ]
    networks.append(network(random=True, name="random resnet50", arch="resnet50"))
    count = 0
    for (data, split, images), scores in SCORES.items():
        for name, rules, *values in scores:
            for provenance, value in zip(networks, values, strict=True):
                one = score(
                    value,
                    name=name,
                    rules=rules,
                    n=images,
                    stderr=0.2,
                    data={"name": data, "split": split, "fingerprint": data},
                )
                write_scores(folder / f"{count:02d}", provenance, one, config={"score": name})
                count += 1
    return folder
