"""YAML files: read in one way, so that no key is lost and each error names the file."""

from pathlib import Path

import yaml

from dllm_core.common.errors import UsageError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that stands twice in a mapping; PyYAML itself keeps the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        value.encode()  # raises UnicodeEncodeError for half of a surrogate pair, which an escape can write
        return value


def read_yaml(path: Path) -> object:
    """The content of a YAML file. Raises UsageError that names the file, and the line where there is one."""
    try:
        loader = _Loader(path.read_text("utf-8-sig"))
        loader.name = str(path)
        return loader.get_single_data()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML in UTF-8: {error}") from error
