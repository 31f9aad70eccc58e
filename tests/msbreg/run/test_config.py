from dataclasses import dataclass, field
from pathlib import Path

from msbreg.run.config import differences, flat, plain


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Settings:
    output: Path = Path("out")
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)


def test_settings_are_converted_flattened_and_compared():
    nested = plain(Settings())
    assert nested["output"] == "out"
    assert nested["sizes"] == [1, 2]
    assert flat(nested)["inner.rate"] == 0.1
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == {"a.c": 2}
