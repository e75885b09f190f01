"""The one place that imports modelscope's OFA, and makes that import safe.

- modelscope's OFA package imports its speech model, which imports fairseq: unmaintained, with pins of 2021. Nothing of
  it is used for pictures, so an empty fairseq is found instead while modelscope is imported, and forgotten afterwards.
- Only classes are taken from modelscope: no directory and no model id ever reaches it. Its own loaders decide by folder
  name and hub metadata whether a model is trusted, then import code from the folder and pip-install its plugins.
- transformers and pip are told to stay offline, for whatever else may be called.
- Parts of modelscope lift Pillow's limits for the whole process; they are put back.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

OFFLINE = {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfaClasses:
    """modelscope's OFAModel and OFAConfig, and transformers' context manager that skips random initialisation."""

    model: Any
    config: Any
    no_init_weights: Any


def import_ofa() -> OfaClasses:
    """Import modelscope's OFA: about 3 s the first time, of which torch and transformers take nine tenths."""
    os.environ.update(OFFLINE)
    with _pillow_kept(), _empty_fairseq():
        from modelscope.models.multi_modal.ofa.configuration_ofa import OFAConfig
        from modelscope.models.multi_modal.ofa.modeling_ofa import OFAModel
        from transformers.modeling_utils import no_init_weights
        from transformers.utils import logging

    # It warns at every load that OFAModel has lost generate(), which nothing here calls.
    logging.set_verbosity_error()
    return OfaClasses(model=OFAModel, config=OFAConfig, no_init_weights=no_init_weights)


class _Empty(types.ModuleType):
    """A module whose every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _FairseqFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - importlib passes it
        target: types.ModuleType | None = None,  # noqa: ARG002 - importlib passes it
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "fairseq":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the module empty."""


@contextmanager
def _empty_fairseq() -> Iterator[None]:
    finder = _FairseqFinder()
    # In front, so that an installed fairseq is not imported either: it would patch torch's own classes.
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "fairseq"]:
            del sys.modules[name]


@contextmanager
def _pillow_kept() -> Iterator[None]:
    from PIL import Image, ImageFile

    pixels, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = pixels, truncated
