"""TensorBoard event files that a board adds to the runs' own: hyper-parameters with final metrics, a layout, the table.

Written with TensorBoard's protocol buffers alone; neither torch nor tensorflow is imported.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

FINAL = "final/"
"""Prefix of the metrics that belong to a finished cell."""
CHARTS = {
    "Loss": ("train/loss", "val/loss"),
    "Accuracy": ("train/accuracy", "val/accuracy"),
    "Training": ("train/lr", "train/grad_norm", "train/samples_per_s"),
}
"""Custom scalars: category -> tags (regular expressions), one chart each."""
Scalar = bool | int | float | str


def write_hparams(
    folder: Path, name: str, hparams: Mapping[str, Scalar], metrics: Mapping[str, float], step: int
) -> None:
    """Write one finished trial: what was varied, and what came out as "final/<metric>".

    Args:
        folder: the trial's own folder of event files.
        name: what the trial is called in the table of hyper-parameters.
        metrics: in the units of their labels.
    """
    end = plugin_data_pb2.SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
    ended = Summary()
    ended.value.add(
        tag=hparams_metadata.SESSION_END_INFO_TAG,
        metadata=hparams_metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end)),
        tensor=hparams_metadata.NULL_TENSOR,
    )
    scalars = Summary()
    for metric, value in metrics.items():
        scalars.value.add(tag=f"{FINAL}{metric}", simple_value=value)
    _write(folder, [(0, summary_v2.hparams_pb(dict(hparams), trial_id=name)), (step, scalars), (step, ended)])


def write_experiment(
    folder: Path, hparams: Mapping[str, Sequence[Scalar]], metrics: Mapping[str, str], table: str
) -> None:
    """Write what concerns all trials: the hyper-parameter table's columns, the chart layout, and the report's table.

    Args:
        hparams: name -> the values it takes.
        metrics: name -> label.
        table: Markdown.
    """
    columns = [summary_v2.HParam(name, summary_v2.Discrete(list(values))) for name, values in hparams.items()]
    shown = [summary_v2.Metric(f"{FINAL}{name}", display_name=label) for name, label in metrics.items()]
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=title,
                chart=[
                    layout_pb2.Chart(title=tag, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$"]))
                    for tag in tags
                ],
            )
            for title, tags in CHARTS.items()
        ]
    )
    charts = custom_scalar.create_summary_metadata()
    _write(
        folder,
        [
            (0, summary_v2.hparams_config_pb(columns, shown)),
            (0, _text(custom_scalar.CONFIG_SUMMARY_TAG, layout.SerializeToString(), charts)),
            (0, _text("table", table.encode(), text_metadata.create_summary_metadata("Table", ""))),
        ],
    )


def _text(tag: str, content: bytes, metadata: Any) -> Summary:
    """A string tensor without dimensions."""
    summary = Summary()
    tensor = TensorProto(dtype=DT_STRING, string_val=[content], tensor_shape=TensorShapeProto())
    summary.value.add(tag=tag, metadata=metadata, tensor=tensor)
    return summary


def _write(folder: Path, summaries: Sequence[tuple[int, Summary]]) -> None:
    """Without TensorBoard's own writer, whose thread prints a traceback where the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    events = [Event(wall_time=now, step=step, summary=summary) for step, summary in summaries]
    with open(folder / f"events.out.tfevents.{int(now)}", "wb") as file:
        writer = RecordWriter(file)
        for event in (Event(wall_time=now, file_version="brain.Event:2"), *events):
            writer.write(event.SerializeToString())
