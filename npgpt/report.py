"""python -m npgpt.report RUN... : the report of a run, or the comparison of several."""

import sys
from pathlib import Path

from npgpt.commandline import Parser, pathname
from npgpt.errors import ConfigError
from npgpt.html_page import check_page
from npgpt.process import run
from npgpt.signals import StopRequest


def main() -> int:
    parser = Parser("report", "Write a run's report.html again, or a page that compares runs.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=pathname, help="runs' folders, such as runs/the-verdict")
    parser.add_argument(
        "--out", type=pathname, metavar="FILE",
        help="the page (default: report.html in the run's folder; of several runs: comparison.html here)",
    )  # fmt: skip
    given = parser.parse_args()
    folders = [Path(name) for name in given.runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"{folder} is named twice")
    out = Path(given.out or "comparison.html")
    if given.out is not None or len(folders) > 1:
        check_page(out)

    from npgpt.checkpoints import runs
    from npgpt.checkpoints.shared.atomic import atomic_write
    from npgpt.reporting import page, read_record
    from npgpt.training.reporter import write_report

    with StopRequest():  # SIGTERM and SIGHUP leave nothing half-written either
        if len(folders) == 1 and given.out is None:
            out, skipped = folders[0] / runs.REPORT_FILE, {folders[0]: write_report(folders[0])}
        else:
            records = [read_record(folder) for folder in folders]
            skipped = {record.path: record.skipped for record in records}
            with atomic_write(out) as file:
                file.write(page(records).encode())
    for folder, lines in skipped.items():
        if lines:
            print(f"{folder}: {lines:,} lines of metrics.jsonl could not be read and are left out", file=sys.stderr)
    print(f"{out}: open it in a browser")
    return 0


if __name__ == "__main__":
    run(main)
