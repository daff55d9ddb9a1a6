"""Modules by the names that they had before version 0.2: importing one of those warns, and gives that of today."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "latent_geodesics."
TASKS = "latent_geodesics.tasks"
"""The package that is none of today's: to import a module binds its name there, which would hide an experiment."""
_CORE = ("errors", "fields", "geometries", "geometry", "hermite", "lazy", "manifold", "path", "records", "solvers")
_RUN = (
    *("canvas", "config", "expectations", "files", "inputs", "launch", "lightning_logger", "pages", "results"),
    *("run_folder", "runner", "sentences", "statistics", "tracking"),
)
_TASKS = (
    *("bench", "distances", "evolution", "extrapolation", "interpolation", "pipelines", "toy", "truth"),
    "video_analysis",
)
_JOINED = {
    "core.fields.base": ("core.fields.guarded", "core.fields.resolution"),
    "core.geometries.base": ("core.geometries.conformal",),
    "core.manifold": ("core.vectors", "vectors"),
    "core.path": ("core.splines", "interpolation"),
    "core.records": ("core.solvers.batched",),
    "data.films": ("data.picture_films",),
    "data.images": ("data.appearance",),
    "data.pairs": ("data.grouping",),
    "data.scenes": ("data.plane_arcs",),
    "data.video_streams": ("data.containers",),
    "data.videos": ("data.video_files",),
    "experiments.interpolation.report": ("experiments.interpolation.pairs",),
    "methods.base": ("methods.attempts", "methods.statuses"),
    "methods.conditions": ("methods.power",),
    "methods.departure": ("methods.continuations",),
    "methods.geodesic": ("methods.reposed",),
    "methods.lines": ("methods.curves",),
    "metrics.attributes": ("metrics.objects",),
    "metrics.base": ("metrics.columns",),
    "metrics.feature_distances": ("metrics.set_distances",),
    "metrics.measured": ("metrics.curves",),
    "metrics.networks": ("metrics.features", "metrics.inputs", "metrics.packages"),
    "metrics.path_quality": ("metrics.density_bow", "metrics.noise_norm"),
    "metrics.perceptual": ("metrics.time_alignment",),
    "metrics.pixels": ("metrics.cross_fade", "metrics.optical_flow", "metrics.sharpness", "metrics.verdict"),
    "metrics.protocol": ("metrics.frame_choice", "metrics.protocol_steps", "metrics.step_statistics"),
    "models.accelerator": ("models.chunking", "models.stopwatch"),
    "models.families.base": ("models.families.flow_transformer",),
    "models.inversion": ("models.ddim", "models.fixed_point"),
    "models.latent_field": ("models.conditioning", "models.ladder"),
    "models.loading": ("models.random_weights",),
    "models.network": ("models.image_codec",),
    "models.precision": ("models.layout",),
    "models.store": ("models.machine",),
    "run.canvas": ("run.grid",),
    "run.compare.runs": ("run.compare.notes",),
    "run.config": ("run.unread",),
    "run.each": ("batch_loop", "batch_store", "run.batch_store"),
    "run.files": ("markup", "names", "run.markup", "run.names"),
    "run.inputs": ("kinds", "run.kinds"),
    "run.main": ("arguments", "command", "run.arguments", "run.command"),
    "run.pages": ("run.compare.layouts",),
    "run.run_folder": ("environment", "run.environment"),
    "run.sequences": ("run.strips", "strips"),
}
"""A module of today -> those that it is made of besides its own."""
FORMER = {
    **{PACKAGE + name: f"{PACKAGE}core.{name}" for name in _CORE},
    **{PACKAGE + name: f"{PACKAGE}run.{name}" for name in _RUN},
    **{f"{TASKS}.{name}": f"{PACKAGE}experiments.{name}.recipe" for name in _TASKS},
    **{PACKAGE + name: PACKAGE + today for today, names in _JOINED.items() for name in names},
    "latent_geodesics.comparison": "latent_geodesics.run.compare",
    "latent_geodesics.models.fingerprints": "latent_geodesics.models.store",
    "latent_geodesics.models.lora_training": "latent_geodesics.models.lora",
    "latent_geodesics.models.tensor_cache": "latent_geodesics.models.store",
    "latent_geodesics.plane_arcs": "latent_geodesics.data.scenes",
    "latent_geodesics.scenes": "latent_geodesics.data.scenes",
    "latent_geodesics.tasks.preflight": "latent_geodesics.run.preflight",
    "latent_geodesics.truth": "latent_geodesics.experiments.truth",
}
"""The former name -> that of today; what lies below moves along."""


class FormerNames(MetaPathFinder, Loader):
    """Finds modules by their former names, before any other finder makes a second module of one that lies below."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A specification that leads to the module of today; None for a name that never was one."""
        if not fullname.startswith(PACKAGE) or (fullname != TASKS and _today(fullname) is None):
            return None
        return ModuleSpec(fullname, self, is_package=fullname == TASKS)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module of today itself; None, for an empty one, where there is none."""
        today = _today(spec.name)
        if today is None:
            return None
        warnings.warn(f"{spec.name} is {today} since version 0.2.", DeprecationWarning, stacklevel=2)
        module = import_module(today)
        self._own = {**getattr(self, "_own", {}), spec.name: module.__spec__}
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is executed again."""
        assert module.__spec__ is not None
        if module.__spec__.name != TASKS:
            module.__spec__ = self._own.pop(module.__spec__.name)


def _today(name: str) -> str | None:
    """What a module is called today that is asked for by a former name."""
    head, tail = name, ""
    while head:
        if head in FORMER:
            return FORMER[head] + tail
        head, dot, last = head.rpartition(".")
        tail = f"{dot}{last}{tail}"
    return None


def install() -> None:
    """Lets former names be imported."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerNames())
