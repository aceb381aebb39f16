"""Python imports this, by PYTHONPATH, in each process that tests or `chaos.py` start, and so what `thin_encoder` and
`work_log` change in mdssl is changed there as well, and `line_trace` records its lines."""

import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path


class _OnImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Calls ``function`` of the module ``helper`` in tests/ with the module ``name``, as soon as that is imported."""

    def __init__(self, name, helper, function):
        self.name, self.helper, self.function = name, helper, function

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def exec_module(self, module):
        self.loader.exec_module(module)
        sys.path.append(str(Path(__file__).parents[1]))
        getattr(importlib.import_module(self.helper), self.function)(module)


if "MDSSL_WORK_LOG" in os.environ:
    sys.meta_path.insert(0, _OnImport("mdssl.pretrain.loop", "work_log", "watch"))
if "MDSSL_LINE_RECORD" in os.environ:
    sys.meta_path.insert(0, _OnImport("mdssl", "line_trace", "record"))
if "MDSSL_THIN_ENCODERS" in os.environ:
    sys.meta_path.insert(0, _OnImport("mdssl.pretrain.model", "thin_encoder", "install"))
