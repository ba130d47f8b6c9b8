"""Stage 7b: one pipeline, written once, run live or over history with the same result."""

from iiot_dask.flow.builder import Pipeline, pipeline
from iiot_dask.flow.runner import Runner

__all__ = ["Pipeline", "Runner", "pipeline"]
