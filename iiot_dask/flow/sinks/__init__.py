"""Where results of a pipeline go besides the notebook."""

from iiot_dask.flow.sinks.base import AwayError, RefusedError, Sink
from iiot_dask.flow.sinks.history import HistorySink
from iiot_dask.flow.sinks.influx import InfluxSink
from iiot_dask.flow.sinks.mqtt import MqttSink
from iiot_dask.flow.sinks.postgres import PostgresSink

__all__ = ["AwayError", "HistorySink", "InfluxSink", "MqttSink", "PostgresSink", "RefusedError", "Sink"]
