"""Names that Windows, too, can keep: its devices, its letters, its lengths."""

from pathlib import PureWindowsPath

import pytest

from farm.cli.filenames import MAX_NAME, fill, long_form, safe_name
from farm.domain.errors import InvalidRequest


@pytest.mark.parametrize(
    "name", ["CON.mp4", "nul", "Aux.mp4", "com1.mp4", "LPT9", "com¹.mp4", "CONOUT$.mp4", "prn.tar.mp4"]
)
def test_a_device_is_no_name_of_a_file(name: str) -> None:
    assert safe_name(name) == f"_{name}"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("common.mp4", "common.mp4"),
        ('a/b\\c:d*e?f"g<h>i|j.mp4', "a-b-c-d-e-f-g-h-i-j.mp4"),
        ("two\nlines\tand\0nul.mp4", "two-lines-and-nul.mp4"),
        ("ends in dots... .mp4", "ends in dots.mp4"),
        ("..", "video"),
        ("x. .", "x"),
        ("C:\\Windows\\x.mp4", "C-Windows-x.mp4"),
        ("e\u0301t\u00e9.mp4", "été.mp4"),
        ("一只红色的风筝.mp4", "一只红色的风筝.mp4"),
    ],
)
def test_a_name_has_no_letter_that_some_system_forbids(name: str, safe: str) -> None:
    assert safe_name(name) == safe
    assert PureWindowsPath(safe).name == safe


def test_a_long_name_is_cut_between_characters_and_keeps_its_extension() -> None:
    name = safe_name("风筝" * 200 + ".mp4")
    assert name.endswith("筝.mp4") or name.endswith("风.mp4")
    assert MAX_NAME - 3 < len(name.encode()) <= MAX_NAME


def test_a_pattern_takes_only_plain_fields() -> None:
    values = {"prompt": "a/b", "seed": 7}
    assert fill("x/{prompt}_{seed:05}.mp4", values) == "x/a-b_00007.mp4"
    for bad in ("{prompt.__class__}", "{seed", "{0}", "{}", "{seed:zz}", "{prompt[0]}"):
        with pytest.raises(InvalidRequest, match="file name"):
            fill(bad, values)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("C:\\videos\\a.mp4", "C:\\videos\\a.mp4"),
        ("C:\\" + "x" * 300 + "\\a.mp4", "\\\\?\\C:\\" + "x" * 300 + "\\a.mp4"),
        ("C:/" + "x" * 300 + "/a.mp4", "\\\\?\\C:\\" + "x" * 300 + "\\a.mp4"),
        ("\\\\nas\\share\\" + "x" * 300, "\\\\?\\UNC\\nas\\share\\" + "x" * 300),
        ("\\\\?\\C:\\" + "x" * 300, "\\\\?\\C:\\" + "x" * 300),
    ],
)
def test_a_path_may_be_longer_than_windows_old_limit(path: str, form: str) -> None:
    assert long_form(path) == form
