"""The bytes of TensorBoard's event files: records of what they start with, of scalars and of a run's HParams.

Whoever imports this loads tensorboardX; nothing else does.
"""

import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Let an import inside go without an optional module, unless that is loaded already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


# tensorboardX loads PyTorch where it finds it: seconds and half a GiB that no event needs.
with _absent("torch"):
    from tensorboardX.proto.api_pb2 import Status
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboardX.record_writer import masked_crc32c

START_TAG = "_hparams_/session_start_info"
END_TAG = "_hparams_/session_end_info"


class Ended(Enum):
    """What the HParams page shows as the status of a run."""

    UNKNOWN = Status.Value("STATUS_UNKNOWN")
    SUCCESS = Status.Value("STATUS_SUCCESS")
    FAILURE = Status.Value("STATUS_FAILURE")


def opening() -> bytes:
    """Give the record that every event file starts with."""
    return _framed(Event(wall_time=time.time(), file_version="brain.Event:2"))


def scalar(tag: str, value: float, step: int) -> bytes:
    """Give the record of one point of a run's scalar; it is kept in single precision."""
    return _summary(Summary.Value(tag=tag, simple_value=value), step)


def session(hyperparameters: Mapping[str, str | float | bool], started: float, ended: Ended) -> bytes:
    """Give the records that make a run a row of the HParams page; `started` in seconds since the epoch."""
    start = SessionStartInfo(start_time_secs=started)
    for name, value in hyperparameters.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        elif isinstance(value, bool):
            start.hparams[name].bool_value = value
        else:
            start.hparams[name].number_value = value
    end = SessionEndInfo(status=ended.value, end_time_secs=time.time())
    return _hparams(START_TAG, HParamsPluginData(session_start_info=start)) + _hparams(
        END_TAG, HParamsPluginData(session_end_info=end)
    )


def _hparams(tag: str, data: HParamsPluginData) -> bytes:
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    return _summary(Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin)), 0)


def _summary(value: Summary.Value, step: int) -> bytes:
    return _framed(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))


def _framed(event: Event) -> bytes:
    """Frame an event as a TFRecord: its length, the length's checksum, the event, its checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
    )
