"""The model card states the known facts, and lists the unknown ones as not recorded."""

import hashlib

from msbreg.checkpoints.convert.convert import TARGETS, convert
from msbreg.checkpoints.convert.model_card import Score, Training, model_card
from msbreg.run.config import plain
from tests.msbreg.checkpoints.convert.realistic_networks import moved, provenance

CERTIFICATE = {
    "date": "2026-01-01T10:00:00+0000",
    "sha256": {"out.safetensors": "cd" * 32},
    "readings": [{"errors": {"96x128": {"stem": {"relative": 2e-7, "absolute": 1e-5}}}}],
}


def card(**more):
    changes = more.pop("changes", {})
    source = plain(provenance(**changes).as_dict())
    return model_card(source, CERTIFICATE, "out.safetensors", **more)


def test_the_card_is_next_to_the_published_file_and_states_its_sha256(tmp_path):
    output = tmp_path / "out.safetensors"
    conversion = convert(moved(), provenance(), output, TARGETS["safetensors"], card=model_card)
    text = (tmp_path / "out.md").read_text()
    assert tmp_path / "out.md" in conversion.sidecars
    assert hashlib.sha256(output.read_bytes()).hexdigest() in text
    assert "ab" * 32 in text


def test_input_stride_and_encoder_are_stated():
    text = card(changes={"arch": "resnet50", "stride": "1x1"})
    assert "RGB images / 255, mean [0.485, 0.456, 0.406]" in text
    assert "in the first 1x1 (v1) convolution" in text
    assert "layout moco, query" in text


def test_scores_are_listed_with_error_and_protocol():
    scores = (Score("kNN top-1, k = 20", "digits", 69.24, 2.0, "0123456789ab"),)
    assert "| kNN top-1, k = 20 | digits | 69.2 ± 2.0 | `0123456789ab` |" in card(scores=scores)
    assert "No evaluation of these weights is recorded" in card()


def test_the_training_is_described_by_its_record_or_not_recorded():
    training = Training("pretrain/run.py", "digits_msbreg", "0123456789ab", {"views": 4})
    assert '"views": 4' in card(training=training)
    assert "Not recorded in the source" in card(changes={"details": {}})


def test_our_own_methods_are_cited_and_others_named():
    assert "arXiv:2207.03552" in card(changes={"details": {"method": "msbreg"}})
    assert "Cite the authors of moco." in card()


def test_signs_of_no_training_are_on_the_card():
    assert "- Warning: untouched initialization" in card(
        changes={"warnings": ("untouched initialization",)}
    )


def test_the_snippet_on_the_card_loads_the_file(tmp_path, monkeypatch):
    output = tmp_path / "out.safetensors"
    convert(moved(), provenance(), output, TARGETS["safetensors"], card=model_card)
    text = (tmp_path / "out.md").read_text()
    names = {}
    monkeypatch.chdir(tmp_path)
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert names["provenance"].arch == "resnet18-narrow"
