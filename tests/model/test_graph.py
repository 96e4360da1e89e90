import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
from onnx import TensorProto, helper

from deepidea.errors import ArtifactError
from deepidea.flows.schema import Column, Schema
from deepidea.model.features import NUMBER_ENCODINGS, NUMBER_SCALINGS, FlowEncoder
from deepidea.model.graph import ALLOWED_OPERATORS, audit_graph, build_graph, read_ellipsoids, read_layers
from deepidea.model.networks import MLP

NUMBERS = (Column("bytes", "number"), Column("rate", "number"))
CATEGORIES = (Column("service", "category"), Column("flag", "category"))


def hostile_flows(n_flows=50, seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.choice([0.0, -3.5, 1e30, np.inf, -np.inf, np.nan, 7.0], (2, n_flows))
    words = rng.choice(["a", "b", "never seen"], (2, n_flows))
    return pl.DataFrame({"bytes": numbers[0], "rate": numbers[1], "service": words[0], "flag": words[1]})


def fitted(schema, scaling, number_encoding):
    encoder = FlowEncoder(schema, scaling=scaling, number_encoding=number_encoding)
    return encoder.fit(hostile_flows().filter(pl.col("service") != "never seen", pl.col("flag") != "never seen"))


@pytest.mark.parametrize("number_encoding", NUMBER_ENCODINGS)
@pytest.mark.parametrize("scaling", NUMBER_SCALINGS)
@pytest.mark.parametrize("columns", [NUMBERS + CATEGORIES, NUMBERS, CATEGORIES], ids=["all", "numbers", "categories"])
def test_graph_computes_what_encoder_and_network_do(columns, scaling, number_encoding):
    schema = Schema("custom", columns)
    encoder = fitted(schema, scaling, number_encoding)
    network = MLP(encoder.d_out, 4, hidden=(8, 8)).eval()
    layers = [(w.detach().numpy(), b.detach().numpy()) for w, b in network.weights_and_biases()]
    graph = build_graph(encoder, layers)
    audit_graph(graph)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    raw = encoder.raw(hostile_flows(seed=1))
    feeds = {"numbers": raw.numbers, "codes": raw.codes}
    logits = session.run(None, {entry.name: feeds[entry.name] for entry in session.get_inputs()})[0]
    with torch.no_grad():
        expected = network(torch.from_numpy(encoder.encode(raw))).numpy()
    assert logits == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for (weight, bias), (read_weight, read_bias) in zip(layers, read_layers(graph, encoder), strict=True):
        assert (weight == read_weight).all()
        assert (bias == read_bias).all()


def test_a_written_graph_passes_the_audit(detector):
    audit_graph(detector.graph)
    operators = {node.op_type for node in onnx.load_model_from_string(detector.graph).graph.node}
    assert operators <= ALLOWED_OPERATORS


def test_ellipsoids_are_read_back_from_the_graph(classifier, detector):
    for ellipsoid, read in zip(classifier.ellipsoids_, read_ellipsoids(detector.graph), strict=True):
        assert (ellipsoid.centre == read.centre).all()
        assert (ellipsoid.axes == read.axes).all()
        assert read.rest == np.float32(ellipsoid.rest)
    layers = read_layers(detector.graph, detector.encoder)
    assert read_ellipsoids(build_graph(detector.encoder, layers)) is None


def model_of(*nodes, initializers=()):
    x = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1])
    return helper.make_model(helper.make_graph(list(nodes), "g", [x], [y], list(initializers)))


def outside_file():
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model_of(helper.make_node("Add", ["numbers", "w"], ["logits"]), initializers=[tensor])


def sub_graph():
    branch = helper.make_graph([], "branch", [], [])
    node = helper.make_node("If", ["numbers"], ["logits"], then_branch=branch, else_branch=branch)
    return model_of(node)


HOSTILE = {
    "operator": model_of(helper.make_node("Loop", ["numbers"], ["logits"])),
    "domain": model_of(helper.make_node("Add", ["numbers", "numbers"], ["logits"], domain="com.evil")),
    "outside file": outside_file(),
    "sub-graph": sub_graph(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_audit_refuses(name):
    with pytest.raises(ArtifactError, match="is not allowed"):
        audit_graph(HOSTILE[name].SerializeToString())


@pytest.mark.parametrize("data", [b"\x00", b"not a graph", b"\xff" * 64])
def test_audit_refuses_what_is_no_graph(data):
    with pytest.raises(ArtifactError):
        audit_graph(data)
