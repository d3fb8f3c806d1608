"""The whole configuration as one frozen, typed tree.

In: a YAML file, dotted command-line options, or a dictionary of overrides. Out: a validated `Config`, or a `ConfigError`
with a readable line for each mistake. YAML, the command line and sweeps share one path, `load_config`.
"""

from reformer_dist.config.configuration import Config
from reformer_dist.config.loading import Further, flatten, load_config, parse_command_line
from reformer_dist.config.mistakes import field_names
from reformer_dist.config.sections.data import DataConfig
from reformer_dist.config.sections.evaluation import EvaluationConfig
from reformer_dist.config.sections.export import ExportConfig
from reformer_dist.config.sections.generation import GenerationConfig
from reformer_dist.config.sections.model import ModelConfig
from reformer_dist.config.sections.objective import ObjectiveConfig
from reformer_dist.config.sections.optimizer import OptimizerConfig
from reformer_dist.config.sections.parallel import ParallelConfig
from reformer_dist.config.sections.section import Section
from reformer_dist.config.sections.tracking import TrackingConfig
from reformer_dist.config.sections.training import TrainConfig
from reformer_dist.config.sections.tuning import TuneConfig
from reformer_dist.errors import ConfigError

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "ExportConfig",
    "Further",
    "GenerationConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "Section",
    "TrackingConfig",
    "TrainConfig",
    "TuneConfig",
    "field_names",
    "flatten",
    "load_config",
    "parse_command_line",
]
