"""Malicious JSON is rejected with a reason; everything that is returned is safe to use."""

import os
import socket

import pytest

from msbreg.run.errors import UserError
from msbreg.run.json_files import DEPTH, misfits, parse_json, read_json, read_json_lines


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 200_000, "deeper"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "deeper"),
        (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, "deeper"),
        (b"1" * 5_000, "5000 digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'"a\\u0000"', "NUL"),
        (b'"\xff"', "utf-8"),
        (b"\x00", "Expecting value"),
        (b"", "Expecting value"),
        (b"{", "Expecting"),
    ],
)
def test_json_beyond_the_limits_is_rejected_with_the_reason(content, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(content)


def test_non_finite_numbers_become_none():
    assert parse_json(b"[NaN, Infinity, -Infinity, 1e999, 2.5]") == [None, None, None, None, 2.5]


def test_values_at_the_limits_are_accepted():
    assert parse_json(b"[" * DEPTH + b"]" * DEPTH)
    assert parse_json(b'"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"
    assert parse_json(str(2**64).encode()) == 2**64


def test_only_regular_files_of_limited_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * 11 + b"1")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name, reason in (
            (".", "not a regular file"),
            ("pipe", "not a regular file"),
            ("socket", "cannot be read"),
            ("none", "does not exist"),
            ("a\0b", "cannot be read"),
        ):
            with pytest.raises(UserError, match=reason):
                read_json(tmp_path / name)
    with pytest.raises(UserError, match="larger than"):
        read_json(tmp_path / "large", limit=10)


def test_an_incomplete_last_line_is_ignored(tmp_path):
    file = tmp_path / "curve.jsonl"
    file.write_text('{"epoch": 0}\n\n{"epoch": 1}\n{"epo')
    assert read_json_lines(file) == [{"epoch": 0}, {"epoch": 1}]
    file.write_text('{"epoch": 0}\n{"epo\n{"epoch": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_json_lines(file)


def test_true_is_not_a_number():
    assert misfits({"a": True, "b": True}, {"a": int, "b": bool}) == ["a"]
    assert misfits([], {"a": int}) == ["a mapping"]
