"""Makes AdapterBit known to PEFT as soon as PEFT is there, without importing PEFT, which takes seconds."""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec


ADAPTERBIT = f"{__package__.rpartition('.')[0]}.adapterbit"


def register_adapterbit() -> None:
    """Registers AdapterBit with PEFT, now or when PEFT is imported."""
    if "peft" in sys.modules:
        import_module(ADAPTERBIT)
    elif not any(isinstance(finder, _AfterPeft) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterPeft())


class _AfterPeft(MetaPathFinder):
    """Lets PEFT be found as ever, and AdapterBit be imported after it."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != "peft":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module) -> None:
                execute(module)
                import_module(ADAPTERBIT)

            spec.loader.exec_module = execute_and_register
        return spec
