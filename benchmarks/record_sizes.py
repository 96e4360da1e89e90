"""Bytes of a flow, a verdict, an alert and an incident in each form in which the project carries or keeps them.

On the wire: lines of Zeek and Suricata, records of NetFlow v9 and IPFIX (one for each direction, in datagrams that fill
an Ethernet frame), and lines as ``deepidea publish`` writes them, with what hosts did lately and without, plain and
packed by zlib a thousand together. In files: Parquet of flows and of verdicts. These flows are those of a simulated
capture of twenty hosts; addresses of a large network repeat less, so that its Parquet packs worse. In a store: a fifth
of a million alerts in twenty thousand incidents, written by the functions that a batch is written by, each with the
evidence that a detector of ``conn+context`` keeps; the room of SQLite's file and of PostgreSQL's tables, indexes
included.

Usage: python -m benchmarks.record_sizes [--alerts 200000]
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import psycopg
from tests.detection.postgres import fresh_database, running_server
from tests.flows import datagrams

from benchmarks.filled_store import fill_store
from benchmarks.result_files import RESULTS, read_result, write_result
from benchmarks.shared_stream import LAB_MINUTES, lab_flows
from deepidea.detection.engine import Engine
from deepidea.detection.sources.registry import open_source
from deepidea.flows.context import add_context
from deepidea.flows.flow_lines import flow_lines
from deepidea.flows.labelled import labelled_flows_from_table
from deepidea.flows.schema import get_schema
from deepidea.flows.writing import write_flows
from deepidea.model.detector import Detector
from deepidea.model.presets import train_detector
from deepidea.store.store import open_store

FRAME = 1_500  # bytes of an Ethernet frame's payload
IP_UDP = 28
PER_INCIDENT = 10
TOGETHER = 1_000  # lines that are packed at once


def make_detector(flows: pl.DataFrame) -> Detector:
    """Return a detector of conn+context that learnt from flows of a simulated capture."""
    known = add_context(flows)
    schema = get_schema("conn+context").restrict(known.columns)
    labelled, _ = labelled_flows_from_table(known, "class", "benign", schema=schema)
    return train_detector(labelled, random_state=0, n_epochs=3, min_steps=200)


def line_sizes(flows: pl.DataFrame) -> dict[str, float]:
    """Return bytes of a published line, with context and without, plain and packed."""
    lines_of = {"stream_line": flow_lines(flows), "stream_line_context": flow_lines(add_context(flows))}
    sizes = {name: sum(map(len, lines)) / len(lines) for name, lines in lines_of.items()}
    return sizes | {f"{name}_packed": _packed(lines) for name, lines in lines_of.items()}


def _packed(lines: Sequence[bytes]) -> float:
    blocks = [b"\n".join(lines[at : at + TOGETHER]) for at in range(0, len(lines), TOGETHER)]
    return sum(len(zlib.compress(block, 1)) for block in blocks) / len(lines)


def export_sizes() -> dict[str, float]:
    """Return bytes of a conversation as two records of NetFlow v9, of IPFIX, its part of headers included."""
    forms: dict[str, tuple[int, Callable[..., bytes]]] = {
        "netflow_v9": (len(datagrams.v9_row()), datagrams.v9),
        "ipfix": (sum(length for _, length, *_ in datagrams.IPFIX_FIELDS), datagrams.ipfix),
    }
    return {name: 2 * _in_datagrams(record, make) for name, (record, make) in forms.items()}


def _in_datagrams(record: int, make: Callable[..., bytes]) -> float:
    headers = IP_UDP + len(make(datagrams.a_set(256)))
    n = (FRAME - headers) // record
    return record + headers / n


def file_sizes(folder: Path, flows: pl.DataFrame, detector: Detector) -> dict[str, float]:
    """Return bytes of a row of Parquet."""
    known = add_context(flows)
    tables = {"parquet_flow": flows, "parquet_flow_context": known, "parquet_verdict": detector.score(known)}
    return {name: _in_parquet(folder / f"{name}.parquet", table) for name, table in tables.items()}


def _in_parquet(path: Path, table: pl.DataFrame) -> float:
    write_flows([table], path)
    return path.stat().st_size / table.height


def evidence(folder: Path, flows: pl.DataFrame, detector: Detector) -> pl.Series:
    """Return what alerts of real verdicts keep of what the detector saw, as JSON."""
    (folder / "none.log").write_bytes(b'{"ts":1,"_path":"conn"}\n')
    with open_store(f"sqlite:///{folder}/none.db") as store:
        engine = Engine(open_source(f"zeek:{folder / 'none.log'}"), detector, store)
        return engine.alerts_of(flows)["features"]


def sqlite_sizes(folder: Path, n_alerts: int, features: pl.Series) -> dict[str, float]:
    """Return bytes of an alert and of an incident in SQLite: the file with incidents, and without."""
    path = folder / "sizes.db"
    fill_store(f"sqlite:///{path}", n_alerts=n_alerts, n_incidents=n_alerts // PER_INCIDENT, features=features)
    connection = sqlite3.connect(path)
    whole = _vacuumed(connection)
    [n_incidents] = connection.execute("SELECT COUNT(*) FROM incidents").fetchone()
    connection.execute("DELETE FROM incidents")
    connection.execute("DELETE FROM incident_states")
    connection.commit()
    without = _vacuumed(connection)
    connection.close()
    return {"alert": without / n_alerts, "incident": (whole - without) / n_incidents}


def _vacuumed(connection: sqlite3.Connection) -> int:
    connection.execute("VACUUM")
    [[pages], [size]] = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * size)


def postgresql_sizes(sockets: str, n_alerts: int, features: pl.Series) -> dict[str, float]:
    """Return bytes of an alert, with evidence and counts, and of an incident in PostgreSQL."""
    with fresh_database(sockets) as url:
        fill_store(url, n_alerts=n_alerts, n_incidents=n_alerts // PER_INCIDENT, features=features)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM FULL")
            room = {
                name: connection.execute(f"SELECT pg_total_relation_size('{name}')").fetchone()[0]  # type: ignore[index]
                for name in ("alerts", "evidence", "alert_counts", "incidents")
            }
            [n_incidents] = connection.execute("SELECT COUNT(*) FROM incidents").fetchone()  # type: ignore[misc]
    per_alert = sum(room[name] for name in ("alerts", "evidence", "alert_counts")) / n_alerts
    return {"alert": per_alert, "incident": room["incidents"] / n_incidents}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--alerts", type=int, default=200_000)
    options = parser.parse_args()
    sensors = read_result("sensor_speed")
    flow = {name: sensors[name]["bytes"] / sensors["lines"] for name in ("zeek_text", "zeek_json", "eve_flows")}
    with tempfile.TemporaryDirectory() as name, running_server() as sockets:
        folder = Path(name)
        detector = make_detector(lab_flows(folder, 1, LAB_MINUTES))
        flows = lab_flows(folder, 2, LAB_MINUTES).drop("class")
        known = evidence(folder, flows, detector)
        flow |= {**export_sizes(), **line_sizes(flows), **file_sizes(folder, flows, detector)}
        stores = {
            "sqlite": sqlite_sizes(folder, options.alerts, known),
            "postgresql": postgresql_sizes(sockets, options.alerts, known),
        }
    figures = {
        "flows": flows.height,
        "alerts": options.alerts,
        "alerts_per_incident": PER_INCIDENT,
        "flow_bytes": _rounded(flow),
        "store_bytes": {kind: _rounded(sizes) for kind, sizes in stores.items()},
    }
    write_result(RESULTS / "record_sizes.json", figures)
    print(figures)


def _rounded(sizes: dict[str, float]) -> dict[str, float]:
    return {name: round(size, 1) for name, size in sizes.items()}


if __name__ == "__main__":
    main()
