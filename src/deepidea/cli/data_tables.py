"""What the commands on data show: which data sets there are, what is in one, what a simulation wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from deepidea.cli.terminal import out, say, show_pairs


def show_datasets(registered: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    """Print the data sets that the project knows and which are registered."""
    table = Table("name", "data set", "flows", "files", "from", box=None, header_style="bold", pad_edge=False)
    for name, record in registered.items():
        told = (f"{record.rows:,}", str(len(record.files)), record.source) if record else ("-", "-", "not registered")
        table.add_row(name, escape(titles[name]), *map(escape, told))
    out.print(table)


def show_description(description: Any) -> None:
    """Print what is in a data set."""
    out.print(f"[bold]{escape(description.title)}[/]  ({description.name}, taxonomy {description.taxonomy})")
    out.print(f"schema {description.schema}, {description.n_features} features")
    _show_files(description.files)
    for table in (description.train, description.test, *description.extras.values()):
        if table is not None:
            _show_flows(table)
    _show_split(description.split)
    if description.quirks:
        show_pairs("quirks of the raw files, handled", {k: f"{v:,}" for k, v in description.quirks.items()})


def _show_files(files: Any) -> None:
    table = Table("file", "role", "rows", "sha256", "official", box=None, header_style="bold", pad_edge=False)
    told = {True: "yes", False: "no: its hash is not the publisher's", None: "publisher states no hash"}
    for file in files:
        table.add_row(escape(file.name), file.role, f"{file.rows:,}", file.sha256[:16], told[file.official])
    out.print(table)


def _show_flows(table: Any) -> None:
    out.print(f"\n[bold]{escape(table.source)}[/]  {table.rows:,} flows, imbalance (eq. 13) {table.imbalance:.2f}")
    out.print(
        f"  {table.distinct_rows:,} distinct ({table.duplicate_rows:,} duplicates); "
        f"{table.contradictory_rows:,} rows share their features with another class, "
        f"{table.benign_or_attack_rows:,} of them benign with attack"
    )
    for title, counts in (("class", table.classes), ("label", table.labels)):
        out.print(f"  {title}: " + escape(", ".join(f"{name} {count:,}" for name, count in counts.items())))
    cells = {"missing": table.missing_cells, "infinite": table.infinite_cells, "-1 window": table.minus_one_windows}
    for kind, columns in cells.items():
        if columns:
            out.print(f"  {kind} cells: " + ", ".join(f"{name} {count:,}" for name, count in columns.items()))


def _show_split(split: Any) -> None:
    if split is None:
        return
    out.print("\n[bold]test against training[/]")
    out.print(
        f"  {split.seen_rows:,} test flows ({100 * split.seen_share:.1f} %) have a twin in training, "
        f"{split.contradicting_rows:,} of them with the opposite verdict"
    )
    if split.new_labels:
        total = sum(split.new_labels.values())
        named = ", ".join(f"{name} {count:,}" for name, count in split.new_labels.items())
        out.print(f"  {len(split.new_labels)} labels occur only in the test, {total:,} flows: {escape(named)}")


def show_simulated(done: Any, capture: Any, labels: Any) -> None:
    """Tell what a simulation wrote."""
    told = ", ".join(f"{label} {count:,}" for label, count in done.conversations.most_common())
    say(f"wrote {capture}: {done.packets:,} packets, {done.without_label:,} of them ARP and without a label")
    say(f"wrote {labels}: {done.conversations.total():,} conversations: {told}")
    say("all of it is invented: no figure measured on it says anything about a real network")
