"""The table of what each golden file reached, printed after the tests."""

PARITY_PROPERTY = "parity"
"""Key of the user property whose (file, column, value) fill the table."""


def print_table(terminalreporter):
    """Prints what each golden variant reached, also where all is well."""
    table: dict[str, dict[str, str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key == PARITY_PROPERTY and report.when == "call":
                    variant, column, number = value
                    table.setdefault(variant, {})[column] = number
    if not table:
        return
    terminalreporter.section("relative errors against CosmicTagger")
    columns = list(dict.fromkeys(c for row in table.values() for c in row))
    terminalreporter.write_line("| variant | " + " | ".join(columns) + " |")
    terminalreporter.write_line("|---" * (len(columns) + 1) + "|")
    for variant in sorted(table):
        cells = [table[variant].get(column, "") for column in columns]
        terminalreporter.write_line(f"| {variant} | " + " | ".join(cells) + " |")
