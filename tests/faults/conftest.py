"""The table of the campaigns, at the end of what pytest prints."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter):
    tables = [vars(module).get("TABLE_ROWS") for module in list(sys.modules.values())]
    rows = [row for table in tables if isinstance(table, list) for row in table if hasattr(row, "fault")]
    if rows:
        width = max(len(row.fault) for row in rows)
        terminalreporter.write_line(f"\n| {'fault':{width}} | tried | survived | steps lost |")
        terminalreporter.write_line(f"|{'-' * (width + 2)}|-------|----------|------------|")
        for row in rows:
            terminalreporter.write_line(f"| {row.fault:{width}} | {row.tried:5} | {row.survived:8} | {row.lost:10} |")
