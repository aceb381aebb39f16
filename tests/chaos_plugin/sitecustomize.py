"""Python imports this in each process of a disturbed sweep, by PYTHONPATH: what is trained goes to a log of its own."""

import importlib.abc
import importlib.util
import sys
from pathlib import Path


class _OnImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Has `work_log` watch the training loop as soon as that is imported."""

    def find_spec(self, name, path, target=None):
        if name != "mdssl.pretrain.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def exec_module(self, module):
        self.loader.exec_module(module)
        sys.path.append(str(Path(__file__).parents[1]))
        import work_log

        work_log.watch(module)


sys.meta_path.insert(0, _OnImport())
