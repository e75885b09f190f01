"""modelscope's OFA classes, imported without the audio package that they do not need here."""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence


class _Absent(types.ModuleType):
    """A module whose every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _FairseqFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty fairseq: modelscope imports it for speech alone, and its pins are years old."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != "fairseq":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


sys.meta_path.append(_FairseqFinder())

from modelscope.models.multi_modal.ofa import OFAModel, OFATokenizer  # noqa: E402  (after the finder)
from modelscope.models.multi_modal.ofa.configuration_ofa import OFAConfig  # noqa: E402

__all__ = ["OFAConfig", "OFAModel", "OFATokenizer"]
