"""Published scores of the same question stand in leaderboards, with what is known of the protocols."""

from tests.transfer.report.records import network, score, write_scores
from transfer.report.collection import collect
from transfer.report.overview.board_references import references
from transfer.report.overview.published_beside import tables_of_the_paper
from transfer.report.render import describe

IMAGENET = {"name": "imagenet", "split": "val", "fingerprint": "im"}
RULES = "cosine similarity s, 20 neighbors, weights exp(s / 0.07)"


def published(value):
    return score(value, name="20-NN top-1", data=IMAGENET, rules=RULES, n=50_000)


def of_arch(name, *, arch="resnet50", random=False, **details):
    details = {"method": name, "seed": 0} | details
    return network(name=name, sha256=name, arch=arch, random=random, details=details)


def test_references_have_the_backbone_of_the_network_and_name_their_source(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours"), published(65.0))
    (found,) = references(collect([tmp_path]).networks).values()
    labels = {one.label: one.value for one in found.scores}
    assert labels["MSBReg (K = 4), ResNet-50, 300 epochs [MSBReg paper, Table 4]"] == 66.2
    assert all("ResNet-50" in label for label in labels)
    assert "the settings of this run are unknown" in found.remark


def test_each_protocol_of_a_score_has_its_own_remark(tmp_path):
    settings = {"temperature": 0.07, "vote": "weighted", "metric": "cosine"}
    write_scores(tmp_path / "a", of_arch("ours"), published(65.0), config=settings)
    write_scores(
        tmp_path / "b", of_arch("ours"), published(66.0), config=settings | {"vote": "hard"}
    )
    as_published, otherwise = references(collect([tmp_path]).networks).values()
    assert "vote" not in as_published.remark
    assert "vote hard (published: weighted)" in otherwise.remark


def test_without_published_scores_of_the_backbone_all_are_references(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours", arch="resnet34"), published(65.0))
    (found,) = references(collect([tmp_path]).networks).values()
    assert any("ResNet-50" in one.label for one in found.scores)


def test_scores_that_answer_no_published_number_have_no_references(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours"), score(60.0), published(50.0) | {"unit": "s"})
    assert references(collect([tmp_path]).networks) == {}


def test_the_leaderboard_has_the_published_scores_in_its_order(tmp_path):
    for name, value in (("ours", 65.0), ("others", 60.0)):
        write_scores(tmp_path / name, of_arch(name), published(value))
    (board,) = describe(collect([tmp_path]), [tmp_path])["leaderboard"].boards
    values = [place.value for place in board.places]
    assert values == sorted(values, reverse=True)
    assert {place.kind for place in board.places} == {"network", "published"}


def test_the_papers_tables_have_the_untrained_network_as_their_floor(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours", epochs=200), published(65.0))
    write_scores(tmp_path / "b", of_arch("random resnet50", random=True), published(2.0))
    collection = collect([tmp_path])
    ((table,), problems) = tables_of_the_paper(collection, [tmp_path])
    assert (table.number, problems) == ("4", [])
    assert [row.cells[0].text for row in table.rows if row.ours] == ["ours", "random resnet50"]


def test_a_checkpoint_of_a_training_that_went_on_has_its_own_epochs(tmp_path):
    linear = score(
        70.0,
        name="linear top-1",
        data=IMAGENET,
        rules="linear layer on frozen features, one learning rate",
        n=50_000,
    )
    write_scores(tmp_path / "a", of_arch("ours", epochs=800, epoch=90), linear)
    ((table,), _) = tables_of_the_paper(collect([tmp_path]), [tmp_path])
    (row,) = [row for row in table.rows if row.ours]
    hundred, two_hundred, four_hundred = row.cells[2:]
    assert (hundred.text, two_hundred.value, four_hundred.value) == ("70.0", None, None)
