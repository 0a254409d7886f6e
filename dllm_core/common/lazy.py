"""A package that offers names from many files and imports a file when one of its names is first used (PEP 562)."""

import importlib
import sys
import types


def offer(package: str, names: dict[str, tuple[str, ...]]) -> None:
    """Let `package` offer `names`: {file under dllm_core: the names that are imported from it}.

    Where a file is called as one of the names, the name keeps its meaning: importing the file would set it to the module.
    """
    file_of = {name: file for file, offered in names.items() for name in offered}

    class Package(types.ModuleType):
        __all__ = tuple(file_of)

        def __getattr__(self, name: str):
            if name not in file_of:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            return getattr(importlib.import_module(f"dllm_core.{file_of[name]}"), name)

        def __setattr__(self, name: str, value: object) -> None:
            if name not in file_of or not isinstance(value, types.ModuleType):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted({*super().__dir__(), *file_of})

    sys.modules[package].__class__ = Package
