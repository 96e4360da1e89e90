"""A trained network and its encoder as one ONNX graph: raw numbers and category codes in, logits and distances out.

The graph is written node by node, so that it holds only the operators in :data:`ALLOWED_OPERATORS`; :func:`audit_graph`
refuses any other before a graph from a file is executed.

Layout, which :func:`read_layers` relies on::

    numbers -> Where(IsNaN) -> Max -> Min [-> Abs, Add 1, Log, Mul Sign] -> Sub -> Div -> Gemm(first layer) -+
      [or bounded numbers -> Concat(once for each rank of edges) -> Greater -> Cast -> Gemm, a thermometer]    |
      [or scaled numbers -> Concat -> Sub -> Mul -> Clip -> Gemm, a piecewise-linear encoding]                 |
    codes   -> Gather(column j) -> Gather(row of table j), once for each category ---------------------- Add +
    -> Relu -> Gemm, once for each further layer -> Identity("logits")

A one-hot block times its columns of the first weight matrix selects one column. So the matrix is cut: its columns for
numbers stay a Gemm, those of each category become a lookup table with a row of zeros for unknown values. Steps get a
column for each rank and number, with weight 0 where a number has fewer steps: whole copies of the numbers beside each
other are several times faster than columns chosen one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deepidea.errors import ArtifactError
from deepidea.model.features import FlowEncoder
from deepidea.model.novelty import DISTANCES, Ellipsoid, Ellipsoids, Layer
from deepidea.model.quantile_steps import QuantileSteps

OPSET, IR_VERSION = 17, 8
ALLOWED_OPERATORS = frozenset(
    ["Abs", "Add", "Div", "Gather", "Gemm", "Identity", "IsNaN", "Log", "MatMul", "Max", "Min", "Mul", "Relu", "Sign"]
    + ["ReduceSumSquare", "Sub", "Where"]
    + ["Cast", "Clip", "Concat", "Greater"]  # of numbers in steps
)
LOGITS = "logits"


def build_graph(encoder: FlowEncoder, layers: Sequence[Layer], ellipsoids: Ellipsoids | None = None) -> bytes:
    """Return the ONNX model of an encoder followed by fully connected ReLU layers.

    Inputs of the graph are ``numbers`` float32 ``(n_flows, n_numbers)`` and ``codes`` int32 ``(n_flows,
    n_categories)``, as :meth:`FlowEncoder.raw` returns them; its output is ``logits`` float32 ``(n_flows, n_classes)``.
    With ellipsoids of the last hidden layer, it also has the outputs :data:`DISTANCES`, each ``(n_flows, 1)``: the
    :meth:`deepidea.model.novelty.Ellipsoid.distances`.
    """
    graph = _GraphWriter()
    value = _first_layer(graph, encoder, layers[0])
    hidden = ""
    for weight, bias in layers[1:]:
        hidden = graph.add("Relu", value)
        value = graph.add("Gemm", hidden, graph.constant(weight), graph.constant(bias), transB=1)
    graph.add("Identity", value, output=LOGITS)
    widths = {LOGITS: len(layers[-1][1])}
    if ellipsoids is not None:
        _add_distances(graph, hidden, ellipsoids)
        widths |= dict.fromkeys(DISTANCES, 1)
    return graph.serialize(encoder, widths)


def _add_distances(graph: _GraphWriter, hidden: str, ellipsoids: Ellipsoids) -> None:
    """Add both squared Mahalanobis distances of the hidden layer h, see :class:`deepidea.model.novelty.Ellipsoid`.

    ``|h - c|^2`` is computed as ``|h|^2 - 2 h.c + |c|^2``, so that no difference as wide as the layer is stored.
    """
    zero = graph.constant(np.array(0, np.float32))
    squared = graph.add("ReduceSumSquare", hidden, axes=[1], keepdims=1)  # (n_flows, 1)
    for ellipsoid, output in zip(ellipsoids, DISTANCES, strict=True):
        centre, axes = ellipsoid.centre.astype(np.float64), ellipsoid.axes.astype(np.float64)
        linear = (graph.constant(-2 * ellipsoid.centre[None]), graph.constant(np.array([centre @ centre], np.float32)))
        along = (graph.constant(ellipsoid.axes), graph.constant((-axes @ centre).astype(np.float32)))
        apart = graph.add("Add", squared, graph.add("Gemm", hidden, *linear, transB=1))  # (n_flows, 1)
        whole = graph.add("Div", apart, graph.constant(np.array(ellipsoid.rest, np.float32)))
        projected = graph.add("Gemm", hidden, *along, transB=1)  # (n_flows, n_axes)
        explained = graph.add("ReduceSumSquare", projected, axes=[1], keepdims=1)
        graph.add("Max", graph.add("Sub", whole, explained), zero, output=output)  # (n_flows, 1)


def _first_layer(graph: _GraphWriter, encoder: FlowEncoder, layer: Layer) -> str:
    weight, bias = layer
    total = graph.constant(bias)
    for block, columns in _number_blocks(graph, encoder, weight):
        total = graph.add("Gemm", block, graph.constant(columns), total, transB=1)  # (n_flows, d_hidden)
    start = encoder.d_numbers
    # code 0 is an unknown value and looks up the row of zeros, which adds nothing, as an all-zero one-hot block would
    for j, values in enumerate(encoder.vocabulary_.values()):
        unknown_then_known = np.zeros((len(values) + 1, len(bias)), np.float32)
        unknown_then_known[1:] = weight[:, start : start + len(values)].T
        code = graph.add("Gather", "codes", graph.constant(np.array(j, np.int64)), axis=1)  # (n_flows,)
        total = graph.add("Add", total, graph.add("Gather", graph.constant(unknown_then_known), code, axis=0))
        start += len(values)
    return total


def _number_blocks(
    graph: _GraphWriter, encoder: FlowEncoder, weight: NDArray[np.float32]
) -> list[tuple[str, NDArray[np.float32]]]:
    """Return the encoded numbers, scaled and in steps, each with its columns of the first weight matrix."""
    steps, k = encoder.steps_, len(encoder.schema.numbers)
    blocks: list[tuple[str, NDArray[np.float32]]] = []
    if not encoder.d_numbers:
        return blocks
    bounded = _bounded_numbers(graph, encoder)
    scaled = "" if encoder.number_encoding == "thermometer" else _scaled_numbers(graph, encoder, bounded)
    if encoder.has_scaled:
        blocks.append((scaled, weight[:, :k]))
    if steps is not None and len(steps):
        value = _steps(graph, steps, bounded if steps.kind == "thermometer" else scaled)
        blocks.append((value, steps.padded(weight[:, encoder.d_numbers - len(steps) : encoder.d_numbers], 0.0)))
    return blocks


def _bounded_numbers(graph: _GraphWriter, encoder: FlowEncoder) -> str:
    filled = graph.add("Where", graph.add("IsNaN", "numbers"), graph.constant(encoder.fill_), "numbers")
    return graph.add("Min", graph.add("Max", filled, graph.constant(encoder.low_)), graph.constant(encoder.high_))


def _scaled_numbers(graph: _GraphWriter, encoder: FlowEncoder, value: str) -> str:
    if encoder.scaling == "log-z-score":
        one_plus = graph.add("Add", graph.add("Abs", value), graph.constant(np.array(1, np.float32)))
        value = graph.add("Mul", graph.add("Log", one_plus), graph.add("Sign", value))
    return graph.add("Div", graph.add("Sub", value, graph.constant(encoder.offset_)), graph.constant(encoder.scale_))


def _steps(graph: _GraphWriter, steps: QuantileSteps, value: str) -> str:
    copies = graph.add("Concat", *[value] * steps.n_ranks, axis=1)  # (n_flows, n_ranks * n_numbers)
    if steps.kind == "thermometer":
        above = graph.add("Greater", copies, graph.constant(steps.padded(steps.start, np.inf)))
        return graph.add("Cast", above, to=TensorProto.FLOAT)
    start, slope = (graph.constant(steps.padded(values, 0.0)) for values in (steps.start, steps.slope))
    zero, one = (graph.constant(np.array(bound, np.float32)) for bound in (0, 1))
    return graph.add("Clip", graph.add("Mul", graph.add("Sub", copies, start), slope), zero, one)


class _GraphWriter:
    """Collects nodes and constants under running numbers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def serialize(self, encoder: FlowEncoder, output_widths: Mapping[str, int]) -> bytes:
        widths = {"numbers": (TensorProto.FLOAT, len(encoder.schema.numbers))}
        if encoder.vocabulary_:
            widths["codes"] = (TensorProto.INT32, len(encoder.vocabulary_))
        inputs = [helper.make_tensor_value_info(name, kind, ["n_flows", d]) for name, (kind, d) in widths.items() if d]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n_flows", d]) for name, d in output_widths.items()
        ]
        graph = helper.make_graph(self.nodes, "deepidea", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized


def read_layers(serialized: bytes, encoder: FlowEncoder) -> list[Layer]:
    """Return the layers of a graph written by :func:`build_graph`, first layer first.

    Raises
    ------
    ArtifactError
        The graph has another layout.

    Examples
    --------
    >>> import polars as pl
    >>> from deepidea.flows.schema import Column, Schema
    >>> schema = Schema("custom", (Column("bytes", "number"), Column("service", "category")))
    >>> encoder = FlowEncoder(schema).fit(pl.DataFrame({"bytes": [0.0, 10.0], "service": ["dns", "http"]}))
    >>> weight, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)
    >>> [layer] = read_layers(build_graph(encoder, [(weight, bias)]), encoder)
    >>> bool((layer[0] == weight).all() and (layer[1] == bias).all())
    True
    """
    graph = onnx.load_model_from_string(serialized).graph
    made_by = {node.output[0]: node for node in graph.node}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    try:
        return _trace_layers(made_by, constants, encoder)
    except (KeyError, ValueError, IndexError) as error:
        raise ArtifactError(f"cannot read the layers of model.onnx, deepidea did not write it: {error!r}") from error


def _trace_layers(
    made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, NDArray[Any]], encoder: FlowEncoder
) -> list[Layer]:
    layers: list[Layer] = []
    value = made_by[LOGITS].input[0]  # walked from the output back: a Gemm whose input is a Relu is not the first layer
    while value in made_by and (relu := made_by.get(made_by[value].input[0])) is not None and relu.op_type == "Relu":
        layers.append((constants[made_by[value].input[1]], constants[made_by[value].input[2]]))
        value = relu.input[0]
    layers.append(_trace_first(made_by, constants, encoder, value))
    return layers[::-1]


def _trace_first(
    made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, NDArray[Any]], encoder: FlowEncoder, value: str
) -> Layer:
    """Reassemble the first layer from the Gemm of each block of numbers and the lookup table of each category."""
    # from the last category back to the numbers, in the reverse order of _first_layer
    blocks: list[NDArray[Any]] = []
    for known in reversed(encoder.vocabulary_.values()):
        add = made_by[value]
        table = constants[made_by[add.input[1]].input[0]]
        if len(table) != len(known) + 1 or table[0].any():
            raise ValueError(f"no table of {len(known)} words and a row of zeros")
        blocks.append(table[1:].T)
        value = add.input[0]
    if encoder.steps_ is not None and len(encoder.steps_):
        blocks.append(constants[made_by[value].input[1]][:, encoder.steps_.places])
        value = made_by[value].input[2]
    if encoder.has_scaled and encoder.schema.numbers:
        blocks.append(constants[made_by[value].input[1]])
        value = made_by[value].input[2]
    return np.concatenate(blocks[::-1], axis=1, dtype=np.float32), constants[value]


def read_ellipsoids(serialized: bytes) -> Ellipsoids | None:
    """Return the ellipsoids of a graph written by :func:`build_graph`; None where it has none.

    Raises
    ------
    ArtifactError
        The graph has another layout.
    """
    graph = onnx.load_model_from_string(serialized).graph
    made_by = {node.output[0]: node for node in graph.node}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if not set(DISTANCES) <= set(made_by):
        return None
    try:
        benign, attacks = (_trace_ellipsoid(made_by, constants, output) for output in DISTANCES)
    except (KeyError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"cannot read the ellipsoids of model.onnx, deepidea did not write it: {error!r}"
        ) from error
    return benign, attacks


def _trace_ellipsoid(
    made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, NDArray[Any]], output: str
) -> Ellipsoid:
    # output = Max(Sub(Div(Add(|h|^2, Gemm(h, -2 centre)), rest), ReduceSumSquare(Gemm(h, axes))), 0)
    whole, explained = (made_by[name] for name in made_by[made_by[output].input[0]].input)
    linear, along = made_by[made_by[whole.input[0]].input[1]], made_by[explained.input[0]]
    centre = constants[linear.input[1]][0] / np.float32(-2)
    return Ellipsoid(centre, constants[along.input[1]], float(constants[whole.input[1]]))


def audit_graph(serialized: bytes) -> None:
    """Raise :class:`ArtifactError` for operators not allowed, sub-graphs, functions and external files."""
    try:
        model = onnx.load_model_from_string(serialized)
    except DecodeError as error:
        raise ArtifactError("cannot read model.onnx as an ONNX graph; get a fresh copy") from error
    problems = [
        f"operator {node.domain}:{node.op_type}"
        for node in model.graph.node
        if node.domain
        or node.op_type not in ALLOWED_OPERATORS
        or any(a.HasField("g") or a.graphs for a in node.attribute)
    ]
    problems += [f"external file in {t.name!r}" for t in model.graph.initializer if t.external_data or t.data_location]
    problems += ["functions"] * bool(model.functions) + ["sparse tensors"] * bool(model.graph.sparse_initializer)
    if problems:
        raise ArtifactError(f"refused model.onnx: {problems[0]} is not allowed; use a file from a trusted source")
