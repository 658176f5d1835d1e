"""Register the classes of this package with transformers and PEFT, once those are imported."""

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


def _register_config() -> None:
    from transformers import AutoConfig

    from ..configuration_pseldnet import PSELDNetConfig

    AutoConfig.register("pseldnet", PSELDNetConfig, exist_ok=True)


def _register_feature_extractor() -> None:
    from transformers import AutoFeatureExtractor

    from ..configuration_pseldnet import PSELDNetConfig
    from ..feature_extraction_pseldnet import PSELDNetFeatureExtractor

    AutoFeatureExtractor.register(PSELDNetConfig, PSELDNetFeatureExtractor, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForAudioFrameClassification

    from ..modeling_pseldnet import PSELDNetConfig, PSELDNetForSELD, PSELDNetModel

    AutoModel.register(PSELDNetConfig, PSELDNetModel, exist_ok=True)
    AutoModelForAudioFrameClassification.register(PSELDNetConfig, PSELDNetForSELD, exist_ok=True)


def _register_pipeline() -> None:
    from transformers import AutoModelForAudioFrameClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from ..adapters import DEFAULT_MODEL_NAME, place_of
    from ..pipeline_pseldnet import TASK, SoundEventLocalizationAndDetectionPipeline

    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=SoundEventLocalizationAndDetectionPipeline,
            pt_model=AutoModelForAudioFrameClassification,
            default={"model": (place_of(DEFAULT_MODEL_NAME), "main")},
            type="audio",
        )


def _register_trainer() -> None:
    """Patch `Trainer` to let models write their own card, as it does for PEFT adapters, and AdapterBit too.

    If `Trainer` has no extractor, that of the repository is kept. A network that was loaded with an adapter gets the
    adapter back from checkpoints, which hold it alone.
    """
    from transformers import Trainer

    from ..configuration_pseldnet import PSELDNetConfig

    create = Trainer.create_model_card
    if hasattr(create, "__wrapped__"):
        return

    @functools.wraps(create)
    def create_model_card(trainer: Trainer, *arguments, **options) -> None:
        create(trainer, *arguments, **options)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if not trainer.is_world_process_zero():
            return
        folder, name = trainer.args.output_dir, trainer.hub_model_id
        is_ours = isinstance(getattr(model, "config", None), PSELDNetConfig)
        if is_ours and name is not None and trainer.processing_class is None:
            from ..hub_folder import is_default_extractor, take_pushed_extractor

            if is_default_extractor(folder, model.config):
                take_pushed_extractor(model.config, folder, name, token=trainer.args.hub_token)
        # Before a model is saved there, the folder has only the card.
        if "complete_hub_folder" in dir(type(model)) and Path(folder, "config.json").is_file():
            model.complete_hub_folder(folder, name)
        for config in getattr(model, "peft_config", {}).values():
            if hasattr(config, "complete_card"):
                config.complete_card(folder)

    def into_adapter(load: Callable[..., None]) -> Callable[..., None]:
        """Wrap a `Trainer` method that loads a checkpoint so that it also loads adapters."""

        @functools.wraps(load)
        def load_weights(trainer: Trainer, *arguments, **options) -> None:
            model = trainer.model
            if isinstance(getattr(model, "config", None), PSELDNetConfig):
                trainer.model = getattr(model, "peft_model", None) or model
            try:
                load(trainer, *arguments, **options)
            finally:
                trainer.model = model

        return load_weights

    Trainer.create_model_card = create_model_card
    # They are private: another version of transformers may lack them.
    for name in ("_load_from_checkpoint", "_load_best_model"):
        if hasattr(Trainer, name):
            setattr(Trainer, name, into_adapter(getattr(Trainer, name)))


def _register_adapters() -> None:
    """Patch PEFT to save the classes with an adapter of any method, and to refuse to load it for other classes.

    PEFT's own files do not name classes. It also refuses an adapter on top of one that is not merged, and uploads the
    card that was saved with the adapter. AdapterBit registers itself when imported, like methods in other packages.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    from ..adapters import check_adapter, check_no_adapter, complete_adapter_card
    from ..configuration_pseldnet import PSELDNetConfig
    from ..hub_folder import save_for_adapter

    init, save, merge = PeftModel.__init__, PeftModel.save_pretrained, BaseTuner.merge_and_unload
    load, upload = PeftModel.load_adapter, PeftModel._upload_modified_files
    if hasattr(save, "__wrapped__"):
        return

    @functools.wraps(init)
    def __init__(peft_model: PeftModel, model, *arguments, **options) -> None:
        if isinstance(getattr(model, "config", None), PSELDNetConfig):
            check_no_adapter(model)
        init(peft_model, model, *arguments, **options)

    @functools.wraps(save)
    def save_pretrained(model: PeftModel, save_directory: str, *arguments, **options) -> None:
        save(model, save_directory, *arguments, **options)
        if isinstance(model.config, PSELDNetConfig) and options.get("is_main_process", True):
            # An adapter with a name other than `default` is in a sub-folder of that name.
            for folder in (Path(save_directory), *(Path(save_directory, name) for name in model.peft_config)):
                if (folder / "adapter_config.json").is_file():
                    save_for_adapter(model.config, folder)

    @functools.wraps(load)
    def load_adapter(model: PeftModel, model_id: str, *arguments, **options):
        if isinstance(model.config, PSELDNetConfig):
            check_adapter(model.config, model_id, **options)
        return load(model, model_id, *arguments, **options)

    @functools.wraps(merge)
    def merge_and_unload(tuner: BaseTuner, *arguments, **options):
        merged = merge(tuner, *arguments, **options)
        if isinstance(getattr(merged, "config", None), PSELDNetConfig):
            # Another adapter must not record the unmerged model as its base.
            merged.name_or_path = ""
        return merged

    @functools.wraps(upload)
    def _upload_modified_files(model: PeftModel, working_dir: str, *arguments, **options):
        if isinstance(model.config, PSELDNetConfig):
            complete_adapter_card(model, working_dir)
        return upload(model, working_dir, *arguments, **options)

    PeftModel.__init__, PeftModel.save_pretrained = __init__, save_pretrained
    PeftModel.load_adapter, PeftModel._upload_modified_files = load_adapter, _upload_modified_files
    BaseTuner.merge_and_unload = merge_and_unload


# Modules of other libraries, each with the module of this package to register with it, and how.
REGISTRATIONS = {
    "transformers.models.auto.configuration_auto": ("configuration_pseldnet", _register_config),
    "transformers.models.auto.feature_extraction_auto": ("feature_extraction_pseldnet", _register_feature_extractor),
    "transformers.models.auto.modeling_auto": ("modeling_pseldnet", _register_models),
    "transformers.pipelines": ("pipeline_pseldnet", _register_pipeline),
    "transformers.trainer": ("configuration_pseldnet", _register_trainer),
    "peft": ("adapterbit", _register_adapters),
}
PACKAGE = __package__.partition(".")[0]
_pairs = [(theirs, f"{PACKAGE}.{ours}", run) for theirs, (ours, run) in REGISTRATIONS.items()]
_watched = {theirs.partition(".")[0] for theirs in REGISTRATIONS} | {PACKAGE}
# Modules of the watched packages that have been executed.
_executed: set[str] = set()


class _Imports(threading.local):
    """Depth of a thread's nested imports of watched packages, and the modules executed since it last registered."""

    def __init__(self):
        self.depth, self.fresh = 0, set()


_imports = _Imports()


class _AfterImport:
    """A finder that delegates to the others, and runs [`_register_fresh`] after the outermost import of a watched
    package: during it, modules are only half executed, and importing one that needs them would fail."""

    @classmethod
    def find_spec(cls, name: str, path=None, target=None) -> ModuleSpec | None:
        if name.partition(".")[0] not in _watched:
            return None
        others = (finder for finder in sys.meta_path if finder is not cls and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with _import():
                    execute(module)
                    _executed.add(module.__name__)
                    _imports.fresh.add(module.__name__)

            spec.loader.exec_module = exec_module
        return spec


@contextlib.contextmanager
def _import() -> Iterator[None]:
    _imports.depth += 1
    try:
        yield
        if _imports.depth == 1:
            _register_fresh()
    finally:
        _imports.depth -= 1


def _register_fresh() -> None:
    """Register the pairs of modules that have both been executed since the last call.

    Either may import the other, and another thread may be doing so: nothing here waits for it.
    """
    while names := _imports.fresh:
        _imports.fresh = set()
        for theirs, ours, run in _pairs:
            try:
                if theirs in names and ours not in sys.modules:
                    import_module(ours)
                elif not names.isdisjoint((theirs, ours)) and _executed.issuperset((theirs, ours)):
                    run()
            except Exception as error:
                # A failure here must not break the other library.
                what = f"{PACKAGE} could not register with {theirs}: {type(error).__name__}: {error}"
                warnings.warn(what, stacklevel=2)


def register() -> None:
    """Register with the libraries that are already imported, and with the others once they are."""
    if _AfterImport not in sys.meta_path:
        sys.meta_path.insert(0, _AfterImport)
    for theirs, _, _ in _pairs:
        if theirs in sys.modules:
            # If another thread is importing it, wait until that is done.
            import_module(theirs)
            _executed.add(theirs)
            _imports.fresh.add(theirs)
    with _import():
        pass
