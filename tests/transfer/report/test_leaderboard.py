"""Networks are ranked only among equals, and share ranks where nothing separates them."""

from tests.transfer.report.records import network, score, write_scores
from transfer.report.collection import collect
from transfer.report.leaderboard import Reference, References, leaderboard
from transfer.report.score_tables import score_tables


def method(name, seed=0):
    return network(seed, name=name, sha256=f"{name}-{seed}", details={"method": name, "seed": seed})


def write(folder, values, **content):
    for name, value in values.items():
        write_scores(
            folder / f"{name}-{len(list(folder.glob('*')))}", method(name), value, **content
        )


def board_of(folder, words=None, references=None):
    networks = collect([folder]).networks
    tables, _ = score_tables(networks)
    by_names = {
        (a, b, table.columns[0], run.variant): word
        for (a, b), word in (words or {}).items()
        for table in tables
        for run in networks[0].runs
    }
    by_column = {
        (table.columns[0], run.variant): references
        for table in tables
        for run in networks[0].runs
        if references
    }
    return leaderboard(tables, networks, by_names, by_column)


def ranks(board):
    return {place.label: place.rank for place in board.places}


def folder_of(tmp_path, **values):
    tmp_path.mkdir(exist_ok=True)
    write(tmp_path, {name: score(value) for name, value in values.items()})
    return tmp_path


def test_networks_that_verdicts_separate_have_their_own_ranks(tmp_path):
    folder = folder_of(tmp_path, a=70.0, b=60.0, c=50.0)
    words = {("a", "b"): "better", ("a", "c"): "better", ("b", "c"): "better"}
    (board,) = board_of(folder, words).boards
    assert ranks(board) == {"a": "1", "b": "2", "c": "3"}
    assert [place.label for place in board.places] == ["a", "b", "c"]


def test_networks_that_verdicts_do_not_separate_share_ranks(tmp_path):
    folder = folder_of(tmp_path, a=70.0, b=69.0, c=50.0)
    words = {("a", "b"): "unclear", ("c", "a"): "worse", ("b", "c"): "better"}
    (board,) = board_of(folder, words).boards
    assert ranks(board) == {"a": "1–2", "b": "1–2", "c": "3"}


def test_pairs_without_verdict_share_ranks_and_are_counted(tmp_path):
    folder = folder_of(tmp_path, a=70.0, b=69.0, c=50.0)
    (board,) = board_of(folder, {("a", "c"): "better"}).boards
    assert ranks(board) == {"a": "1–2", "b": "1–3", "c": "2–3"}
    assert "2 of 3 pairs were not tested" in board.remark


def test_without_verdicts_ranks_are_by_the_means_and_say_so(tmp_path):
    (board,) = board_of(folder_of(tmp_path, a=70.0, b=50.0, c=50.0)).boards
    assert ranks(board) == {"a": "1", "b": "2–3", "c": "2–3"}
    assert board.remark.startswith("Ranks are by the means: no pair of these networks was tested")


def test_lower_scores_rank_first_if_lower_is_better(tmp_path):
    write(tmp_path, {n: score(v, higher_is_better=False) for n, v in (("a", 9.0), ("b", 4.0))})
    (board,) = board_of(tmp_path).boards
    assert ranks(board) == {"b": "1", "a": "2"}


def test_unlike_protocols_have_separate_boards_with_the_footnote(tmp_path):
    folder = folder_of(tmp_path, a=70.0, b=60.0, c=55.0)
    write(folder, {"d": score(80.0), "e": score(50.0)}, config={"steps": 9})
    usual, other = board_of(folder).boards
    assert list(ranks(usual)) == ["a", "b", "c"]
    assert ranks(other) == {"d": "1", "e": "2"}
    assert (usual.note, other.note) == ("", "a")
    assert usual.protocol != other.protocol


def test_untrained_and_published_rows_stand_in_order_without_a_rank(tmp_path):
    folder = folder_of(tmp_path, a=70.0, b=60.0)
    write_scores(folder / "random", network(random=True), score(20.0))
    published = References((Reference("MoCo", 65.0), Reference("NPID", 10.0)), "settings unknown")
    (board,) = board_of(folder, references=published).boards
    assert [(place.label, place.rank, place.kind) for place in board.places] == [
        ("a", "1", "network"),
        ("MoCo", "–", "published"),
        ("b", "2", "network"),
        ("random resnet18-tiny", "–", "untrained"),
        ("NPID", "–", "published"),
    ]
    assert "Published scores: settings unknown." in board.remark


def test_a_board_without_untrained_network_says_so(tmp_path):
    (board,) = board_of(folder_of(tmp_path, a=70.0, b=60.0)).boards
    assert "No untrained network was evaluated by this protocol." in board.remark


def test_one_trained_network_makes_no_board(tmp_path):
    folder = folder_of(tmp_path, a=70.0)
    write_scores(folder / "random", network(random=True), score(20.0))
    assert board_of(folder).boards == []


def test_the_mean_rank_is_over_the_protocols_of_all_networks_only(tmp_path):
    names = ("top-1", "top-5", "mAP")
    values = {"a": (70, 50, 10), "b": (60, 50, 20), "c": (50, 40)}
    for name, own in values.items():
        scores = [score(float(v), name=n) for n, v in zip(names, own, strict=False)]
        write_scores(tmp_path / name, method(name), *scores)
    found = board_of(tmp_path)
    assert found.shared == 2
    assert found.mean_ranks == [("a", 1.25), ("b", 1.75), ("c", 3.0)]
    assert "over the 2 of 3 boards" in found.remark


def test_without_two_shared_protocols_there_is_no_mean_rank(tmp_path):
    folder = folder_of(tmp_path, a=70.0, b=60.0)
    write(folder, {"a": score(1.0, name="mAP"), "b": score(2.0, name="mAP")})
    write(folder, {"c": score(3.0, name="mAP")})
    found = board_of(folder)
    assert (found.mean_ranks, found.shared) == ([], 1)
    assert found.remark.startswith("No mean rank: 1 of 2 boards")
