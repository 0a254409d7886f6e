"""YAML files: no key is lost, and each error names the file."""

import pytest

from dllm_core.common.errors import UsageError
from dllm_core.common.yaml_file import read_yaml


@pytest.mark.parametrize("content, words", [
    (b"a: 1\nb: 2\na: 3\n", "'a' stands twice.*line 3"),
    (b"a: {b: 1, b: 2}\n", "'b' stands twice.*line 1"),
    (b"a: caf\xe9\n", "not YAML in UTF-8.*position 6"),
    ("a: 1\n".encode("utf-16"), "not YAML in UTF-8"),
    (b'a: "\\ud83d"\n', "surrogates not allowed"),
    (b"a: " + b"9" * 5000, "not YAML in UTF-8: .*5000 digits"),
    (b"[" * 100_000, "not YAML in UTF-8: .*recursion"),
    (b"a: [\n", "not YAML.*line 2"),
    (b"[1, 2]: 3\n", "not YAML.*line 1"),
    (b"a: !!python/name:print\n", "not YAML.*constructor"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, content, words):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"(?s)bad.yaml: .*{words}"):
        read_yaml(tmp_path / "bad.yaml")


def test_an_absent_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UsageError, match="absent.yaml: cannot be read .No such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="cannot be read .Is a directory"):
        read_yaml(tmp_path)


def test_equal_keys_of_different_mappings_and_a_byte_order_mark_are_fine(tmp_path):
    (tmp_path / "good.yaml").write_bytes(b"\xef\xbb\xbfa: {b: 1}\nc: {b: 2}\nd: &d {b: 3}\ne: {<<: *d, b: 4}\n")
    assert read_yaml(tmp_path / "good.yaml") == {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 3}, "e": {"b": 4}}
