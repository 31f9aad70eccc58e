"""Attentive probes compute what a loop over images, heads and queries computes."""

import pytest
import torch
from torch import nn

from msbreg.run.errors import UserError
from transfer.frozen.attentive import AttentiveHeads
from transfer.frozen.head_training import HeadPlan, HeadTraining
from transfer.frozen.heads import Head


def tokens(images: int = 5, places: int = 7, width: int = 6) -> torch.Tensor:
    return torch.randn(images, places, width, generator=torch.Generator().manual_seed(1))


def probe(norm="none", queries: int = 2, heads: int = 3) -> AttentiveHeads:
    made = AttentiveHeads(
        6,
        4,
        [Head(0.1 * (i + 1), 0.0, norm) for i in range(heads)],
        torch.Generator().manual_seed(0),
        queries=queries,
    )
    with torch.no_grad():  # different heads, with queries that matter
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return made


def test_a_query_takes_the_sum_of_the_places_weighted_by_similarity():
    made, x = probe(), tokens()
    found = made.logits(x)
    for image in range(len(x)):
        for head in range(3):
            sums = []
            for query in made.queries[:, head].T:
                weights = torch.stack([place @ query / 6**0.5 for place in x[image]]).softmax(0)
                sums.append(sum(w * place for w, place in zip(weights, x[image], strict=True)))
            wanted = torch.cat(sums) @ made.weight[:, head] + made.bias[0, head]
            torch.testing.assert_close(found[image, head], wanted)


def test_the_order_of_places_does_not_matter():
    made, x = probe(), tokens()
    torch.testing.assert_close(made.logits(x.flip(1)), made.logits(x))


def test_tokens_are_normalized_over_images_and_places():
    made, x = probe("no_affine"), 5 * tokens() + 3
    norm = nn.BatchNorm1d(6, affine=False)
    normalized = norm(x.flatten(0, 1)).unflatten(0, (5, 7))
    plain = probe()
    torch.testing.assert_close(made.logits(x), plain.logits(normalized), rtol=1e-4, atol=1e-4)
    made.eval()
    wanted = norm.eval()(x.flatten(0, 1)).unflatten(0, (5, 7))
    torch.testing.assert_close(made.logits(x), plain.logits(wanted), rtol=1e-4, atol=1e-4)


def test_queries_learn_which_place_matters():
    """The class is written into one place, which a marker shows; the mean over places hides it."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 2, (256,), generator=draw)
    x = torch.randn(256, 9, 4, generator=draw)
    x[..., 0] = 0
    place = torch.randint(0, 9, (256,), generator=draw)
    x[torch.arange(256), place, 0] = 3
    x[torch.arange(256), place, 1] = labels.float() * 4 - 2
    heads = AttentiveHeads(4, 2, [Head(1.0)], torch.Generator().manual_seed(0), queries=1)
    training = HeadTraining(
        256,
        heads,
        HeadPlan(epochs=200, batch_size=256),
        features_of=lambda batch: batch,
        batches_of=lambda shares: iter(()),
        device=torch.device("cpu"),
    )
    for _ in range(200):
        training.optimizer.zero_grad()
        total, _ = heads(x, labels, 256)
        total.backward()
        training.optimizer.step()
    correct = (heads.logits(x)[:, 0].argmax(1) == labels).float().mean()
    assert correct > 0.95


@pytest.mark.parametrize(
    ("norms", "queries"), [(("affine",), 2), (("none", "no_affine"), 2), (("none",), 0)]
)
def test_impossible_probes_are_rejected(norms, queries):
    settings = [Head(0.1, 0.0, norm) for norm in norms]
    with pytest.raises(UserError, match="expected at least one query, and the same norm"):
        AttentiveHeads(6, 4, settings, torch.Generator(), queries=queries)


def test_tokens_of_another_width_are_rejected():
    with pytest.raises(UserError, match=r"expected \(images, places, 6\)"):
        probe().logits(tokens(width=5))
    with pytest.raises(UserError, match=r"expected \(images, places, 6\)"):
        probe().logits(torch.zeros(3, 6))
