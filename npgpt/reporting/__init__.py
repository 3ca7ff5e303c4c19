"""The report of runs: metrics.jsonl read again, one page to look at, and a table for spreadsheets.

record.py     what a run has written, from a stranger too: config.json and metrics.jsonl
thinning.py   a million points as two thousand, with their peaks
page.py       report.html, one file without a network: page.html, style.css, charts.js and report.js put together
table.py      metrics.csv
machine.py    the machine and the command, for whoever wants to repeat a run
"""

from npgpt.reporting.page import page
from npgpt.reporting.record import Record, read_record
from npgpt.reporting.table import table

__all__ = ["Record", "page", "read_record", "table"]
