"""Stand-ins for what modelscope's pipelines import and visual entailment never calls. For the reference only."""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

import torch

# Speech, video and training packages: large, and several of them have no release for this Python.
UNUSED = (
    "fairseq",
    "torchaudio",
    "decord",
    "timm",
    "librosa",
    "soundfile",
    "unicodedata2",
    "cv2",
    "rapidfuzz",
)


class _StandIn(types.ModuleType):
    """A module whose every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - importlib passes it
        target: types.ModuleType | None = None,  # noqa: ARG002 - importlib passes it
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in UNUSED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the module empty."""


def install() -> torch.library.Library:
    """Make the stand-ins importable, and torchvision beside a CPU torch; keep the returned value alive.

    torchvision's wheel is built against a CUDA torch: its compiled half does not load beside another one, and without
    it the import fails on `operator torchvision::nms does not exist`. Its Python half, which resizes pictures, needs
    the operators' names alone.
    """
    sys.meta_path.insert(0, _Finder())
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch types it nowhere
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]  # as above
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]  # as above
    from modelscope.utils import import_utils

    # modelscope also asks pip's records whether timm and others are installed; the stand-ins have none.
    import_utils.requires = lambda *_arguments: None
    return library
