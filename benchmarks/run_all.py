"""Run every benchmark but the accuracy grid (`make bench-accuracy`), then write their figures into the documents.

Usage: python -m benchmarks.run_all
"""

from __future__ import annotations

import sys

from benchmarks import (
    context_speed,
    crashes,
    detection_speed,
    evaluation_speed,
    explain_speed,
    filled_store,
    install_size,
    memory_cost,
    meter_speed,
    naming_search,
    page_speed,
    paper_choices,
    recipe_search,
    record_sizes,
    scale,
    scan_memory,
    scoring_speed,
    sensor_speed,
    shard_memory,
    shared_stream,
    site_adaptation,
    spark_speed,
    stage_costs,
    startup,
    training_speed,
    workers_speed,
    write_docs,
    zero_day,
)


def main() -> None:
    """Run all of them with their defaults."""
    sys.argv = sys.argv[:1]
    watching = (
        meter_speed,
        sensor_speed,
        context_speed,
        detection_speed,
        filled_store,
        page_speed,
        scan_memory,
        crashes,
        memory_cost,
        shared_stream,
        stage_costs,
        record_sizes,
        scale,  # from all of these
    )
    for benchmark in (
        install_size,
        startup,
        scoring_speed,
        evaluation_speed,
        explain_speed,
        training_speed,
        workers_speed,
        shard_memory,
        spark_speed,
        paper_choices,
        recipe_search,
        naming_search,
        zero_day,
        site_adaptation,
        *watching,
    ):
        print(f"== {benchmark.__name__}", flush=True)
        benchmark.main()
    write_docs.main()


if __name__ == "__main__":
    main()
