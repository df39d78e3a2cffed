"""Models that exist already, in the place of those that a config describes."""

from ml_collections import ConfigDict

from vpjax.backbones.base import Backbone
from vpjax.models.create import create_model
from vpjax.models.model import Model
from vpjax.models.partition import partition
from vpjax.runs.classes import ClassInfo
from vpjax.runs.experiment import GivenModel, method_spec


def model_on(config: ConfigDict, backbone: Backbone, classes: ClassInfo) -> GivenModel:
    """Return a config's model on an existing backbone.

    Args:
        config: of a run.
        backbone: the backbone.
        classes: of the model.
    """
    spec = method_spec(config)
    model = create_model(
        backbone,
        spec.name,
        len(classes.names),
        trainable=config.train.trainable,
        match_reference_code=config.match_reference_code,
        class_names=classes.names,
        seed=config.seed,
        **spec.options,
    )
    return given_model(model)


def given_model(model: Model) -> GivenModel:
    """Return a model from `create_model` as `vpjax.runs.experiment.prepare` takes it."""
    origin = getattr(model.backbone, "origin", None)
    loaded = origin.loaded if origin else None
    return GivenModel(partition(model, model.trainable_pattern), loaded, model.backbone.preset)
