"""ONNX graphs that only refer to their weights, written operator by operator, and sessions that compute them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

CONTRIB = "com.microsoft"
"""Domain of onnxruntime's own operators."""


@dataclass(frozen=True)
class Graph:
    """A graph and its weights.

    Attributes:
        model: serialised.
        weights: by name, what `model` only refers to.
    """

    model: bytes
    weights: Mapping[str, np.ndarray]


class GraphWriter:
    """Gathers operators and what they compute with."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._weights: dict[str, np.ndarray] = {}

    def _graph(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> Graph:
        """What was written so far."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._constants)
        return Graph(serialised(graph), self._weights)

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A standard operator with one output, whose name is returned."""
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """An operator of onnxruntime's own."""
        self._nodes.append(helper.make_node(operator, inputs, outputs, domain=CONTRIB, **attributes))

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self._constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _weight(self, name: str, value: np.ndarray) -> str:
        """A tensor that the graph refers to: it need not be copied, and inside all together could be at most 2 GiB."""
        array = np.ascontiguousarray(value)
        proto = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        proto.external_data.add(key="location", value="in memory")
        self._constants.append(proto)
        self._weights[name] = array
        return name


def serialised(graph: onnx.GraphProto) -> bytes:
    """A model of the graph alone, with the versions of operators that all graphs here are written for."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


def cpu_session(graph: Graph, threads: int) -> onnxruntime.InferenceSession:
    """A session on so many threads, which wait for work without spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; it warns of what it chose itself
    # A plan for all that lies between operators would be kept for every length of prompt; for images, of one size, it
    # takes more memory and is no faster.
    options.enable_mem_pattern = False
    # Between steps the cores belong to the other programs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), values)
    return onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
