"""
How long the dashboards' queries take over a day of 200 packages in a real Prometheus; the slowest comes first.

`python benchmarks/dashboards.py` writes the day with our own exposition at simulated times, loads it by
`promtool tsdb create-blocks-from openmetrics`, and asks every query of every panel three times, for the last six hours
and for the whole day, as wide as a screen. The slowest is "Ends by result" of the overview: half a second for a day and
4.3 million samples, on two shared cores and Prometheus 2.42.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.asking import ask_all, load
from tests.day import write_day

SHOWN = 10


def main() -> None:
    """Prints the slowest queries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=int, default=200)
    parser.add_argument("--hours", type=float, default=24)
    given = parser.parse_args()
    end = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = folder / "samples.om"
        count = write_day(samples, end=end, hours=given.hours, packages=given.packages)
        print(f"{given.packages} packages, {given.hours:g} hours, {count:,} samples")
        with load(folder, samples) as prometheus:
            busiest = prometheus.query(
                f"topk(1, max_over_time(ssis_package_execution_duration_seconds[30m] @ {end.timestamp():.0f}))"
            )
            package = busiest[0]["metric"]["package_name"]
            for hours in (6.0, given.hours):
                took: defaultdict[str, list[float]] = defaultdict(list)
                series: dict[str, int] = {}
                for _ in range(3):
                    for answer in ask_all(
                        prometheus,
                        end=end,
                        shown=timedelta(hours=hours),
                        scrape=timedelta(minutes=1),
                        package=package,
                    ):
                        assert not answer.error, answer
                        took[answer.where].append(answer.seconds)
                        series[answer.where] = answer.series
                empty = [where for where, count in series.items() if not count]
                total = sum(statistics.median(times) for times in took.values())
                print(f"\n{hours:g} hours shown: {len(took)} queries in {total:.1f} s, {len(empty)} of them empty")
                slowest = sorted(took, key=lambda where: -statistics.median(took[where]))
                for where in slowest[:SHOWN]:
                    print(f"  {statistics.median(took[where]) * 1000:7.0f} ms  {series[where]:5} series  {where}")


if __name__ == "__main__":
    main()
