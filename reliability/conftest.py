"""The fixtures of the tests, and the table of the campaigns at the end of what pytest prints."""

import sys

pytest_plugins = ["tests.conftest"]


def pytest_terminal_summary(terminalreporter):
    module = next((each for name, each in sys.modules.items() if name.endswith("test_campaigns")), None)
    if module and module.TABLE_ROWS:
        width = max(len(row.fault) for row in module.TABLE_ROWS)
        terminalreporter.write_line(f"\n| {'fault':{width}} | tried | survived | steps lost |")
        terminalreporter.write_line(f"|{'-' * (width + 2)}|-------|----------|------------|")
        for row in module.TABLE_ROWS:
            terminalreporter.write_line(f"| {row.fault:{width}} | {row.tried:5} | {row.survived:8} | {row.lost:10} |")
