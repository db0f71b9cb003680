"""A doctor's report for the terminal, as JSON, and as one HTML file that loads nothing from elsewhere."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from html import escape
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure

from hfaudio.data.doctor import Report
from hfaudio.data.doctor_checks import Finding

WIDTH = 100  # columns of a terminal
TERMINAL_EXAMPLES = 3
SHOWN_CHARACTERS = 120  # of an alphabet, the rarest ones after the most frequent ones

SEVERITIES = ("fix", "look", "fine")
QUANTILES = "least, 5 %, median, 95 %, largest"
VERDICTS = {
    "fix": "something must be fixed before training",
    "look": "nothing must be fixed; some things are worth a look",
    "fine": "all checks passed",
}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
section.finding { border-left: .4rem solid #999; padding: .1rem 1rem; margin: 1rem 0; background: #f7f7f7; }
section.fix { border-color: #b3261e; } section.look { border-color: #c98a00; } section.fine { border-color: #2e7d32; }
.tag { font-size: .8rem; font-weight: bold; color: white; padding: .1rem .5rem; border-radius: .3rem; }
.tag.fix { background: #b3261e; } .tag.look { background: #8a5f00; } .tag.fine { background: #2e7d32; }
section.finding p { margin: .3rem 0; } section.finding table { font-size: .9rem; margin: .5rem 0; }
dt { font-weight: bold; } img { max-width: 100%; height: auto; }
.char { display: inline-block; margin: .15rem; padding: .1rem .5rem; background: #eee; border-radius: .3rem; }
.char small { color: #555; }
"""


def to_json(report: Report) -> str:
    return json.dumps(report.as_dict(), ensure_ascii=False, indent=1) + "\n"


# ---------------------------------------------------------------------------------------------------------------
# Terminal


def to_text(report: Report) -> str:
    """The splits side by side, then the findings, the worst first; WIDTH columns."""
    lines = [f"{report.dataset}: {VERDICTS[report.verdict]}", ""]
    lines += [*table([["", *report.splits], *split_rows(report)]), f"* {QUANTILES}"]
    for finding in sorted_findings(report):
        if finding.severity != "fine":
            lines += ["", *finding_lines(finding)]
    fine = [finding.name for finding in report.findings if finding.severity == "fine"]
    lines += ["", *wrapped("fine  ", ", ".join(fine) or "none")]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def finding_lines(finding: Finding) -> list[str]:
    lines = wrapped(f"{finding.severity:6}", f"{title(finding)}: {finding.value}")
    lines += wrapped("      rule: ", finding.rule) + wrapped("      do: ", finding.remedy)
    for example in finding.examples[:TERMINAL_EXAMPLES]:
        lines += wrapped("        - ", f"{example.split} {example.id}  {example.detail}")
    return lines


def wrapped(start: str, text: str) -> list[str]:
    """Lines of at most WIDTH columns, the first of which begins with `start`, the others with as many blanks."""
    return wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def table(rows: list[list[str]]) -> list[str]:
    """Columns of text; where there are too many splits for WIDTH columns, they go on below."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    first = 1
    while first < len(widths):
        last = first + 1
        while last < len(widths) and widths[0] + sum(width + 2 for width in widths[first : last + 1]) <= WIDTH:
            last += 1
        lines += [""] if lines else []
        for row in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(row[first:last], widths[first:last], strict=True)]
            lines.append("  ".join([f"{row[0]:<{widths[0]}}", *cells]))
        first = last
    return lines


def split_rows(report: Report) -> list[list[str]]:
    """What is known of each split: a name, then a cell for each split."""
    named = [(label, [show(facts) for facts in report.splits.values()]) for label, show in SPLIT_ROWS.items()]
    return [[label, *cells] for label, cells in named]


def span(values: Mapping[str, float] | None) -> str:
    """The five quantiles, in their order."""
    return "-" if values is None else " ".join(f"{value:.1f}" for value in values.values())


def listed(counts: Mapping[str, int], most: int = 3) -> str:
    """The most frequent ones of counted values, without the counts if there is one."""
    names = sorted(counts, key=lambda name: -counts[name])
    if len(names) == 1:
        return names[0]
    shown = [f"{name} ({counts[name]:,})" for name in names[:most]]
    return ", ".join(shown) + (", ..." if len(names) > most else "") or "-"


SPLIT_ROWS: dict[str, Any] = {
    "rows": lambda facts: f"{facts['rows']:,}",
    "usable": lambda facts: f"{facts['usable_rows']:,}",
    "hours": lambda facts: f"{facts['hours']:.2f}",
    "seconds *": lambda facts: span(facts["seconds"]),
    "characters a second *": lambda facts: span(facts["characters_per_second"]),
    "silent clips": lambda facts: f"{facts['silence']['silent_clips']:,}",
    "silence before, after": lambda facts: "{leading_share:.1%}  {trailing_share:.1%}".format(**facts["silence"]),
    "clipped clips, samples": lambda facts: "{clips:,}  {sample_share:.4%}".format(**facts["clipping"]),
    "Hz": lambda facts: listed(facts["sample_rates"], 2),
    "channels": lambda facts: listed(facts["channels"], 2),
    "coded as": lambda facts: listed(facts["encodings"], 1),
    "speakers": lambda facts: "-" if facts["speakers"] is None else f"{facts['speakers']:,}",
    "different transcripts": lambda facts: f"{facts['different_transcripts']:,}",
    "characters": lambda facts: f"{len(facts['alphabet']):,}",
}


def sorted_findings(report: Report) -> list[Finding]:
    """The worst first, accepted ones after others of their severity."""
    return sorted(report.findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.accepted))


def title(finding: Finding) -> str:
    return finding.name + (" (accepted)" if finding.accepted else "")


# ---------------------------------------------------------------------------------------------------------------
# HTML


def to_html(report: Report) -> str:
    """A page that holds its style and its pictures."""
    return "\n".join(html_parts(report)) + "\n"


def html_parts(report: Report) -> Iterator[str]:
    name = escape(report.dataset)
    yield f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}: doctor</title>'
    yield f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>"
    yield f'<p><span class="tag {report.verdict}">{report.verdict}</span> {VERDICTS[report.verdict]}</p>'
    settings = ", ".join(f"{key} {value}" for key, value in report.settings.items() if value is not None)
    yield f"<p>Read with {escape(settings)}.</p>"
    yield "<h2>Splits</h2>"
    yield html_table([["", *report.splits], *split_rows(report)]) + f"\n<p>* {QUANTILES}</p>"
    for key, label, alt in (
        ("seconds_histogram", "seconds", "Lengths of the recordings"),
        ("characters_per_second_histogram", "characters a second, silent ends left out", "Speed of speech"),
    ):
        yield f'<h2>{alt}</h2>\n<img alt="{alt}" src="data:image/png;base64,{histogram_png(report, key, label)}">'
    yield "<h2>Findings</h2>"
    for finding in sorted_findings(report):
        yield html_finding(finding)
    yield "<h2>Alphabets after normalisation</h2>"
    for split, facts in report.splits.items():
        yield f"<h3>{escape(split)}: {len(facts['alphabet']):,} characters</h3>\n<p>{alphabet(facts['alphabet'])}</p>"
    yield "<h2>Most frequent transcripts</h2>"
    for split, facts in report.splits.items():
        rows = [[f"{row['rows']:,}", row["text"] or "(not kept)"] for row in facts["most_frequent_transcripts"]]
        yield f"<h3>{escape(split)}</h3>"
        yield html_table([["rows", "transcript"], *rows]) if rows else "<p>none occurs twice</p>"
    yield "</body>\n</html>"


def html_finding(finding: Finding) -> str:
    rows = [[example.split, example.id, example.detail] for example in finding.examples]
    examples = html_table([["split", "row", ""], *rows]) if rows else ""
    return (
        f'<section class="finding {finding.severity}">\n<p><span class="tag {finding.severity}">{finding.severity}'
        f"</span> <b>{escape(title(finding))}</b>: {escape(finding.value)}</p>\n<p>Rule: {escape(finding.rule)}.</p>\n"
        f"<p>Remedy: {escape(finding.remedy)}.</p>\n{examples}</section>"
    )


def html_table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def alphabet(counts: Mapping[str, int]) -> str:
    """Characters with their counts, the most frequent first; of a long alphabet its two ends."""
    items = [f'<span class="char">{escape(char)} <small>{count:,}</small></span>' for char, count in counts.items()]
    if len(items) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        items[half:-half] = [f"... {len(items) - 2 * half:,} others ..."]
    return "\n".join(items)


def histogram_png(report: Report, key: str, label: str) -> str:
    """A picture of the splits' histograms as shares of their rows, in base64."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axis = figure.subplots()
    for split, facts in report.splits.items():
        counts, edges = facts[key]["counts"], facts[key]["edges"]
        total = max(sum(counts), 1)
        density = [n / total / (edges[1] - edges[0]) for n in counts]  # the bins of the splits differ
        axis.stairs(density, edges, label=split, linewidth=1.5)
    axis.set(xlabel=label, ylabel="density", xlim=(0, None), ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return base64.b64encode(picture.getvalue()).decode("ascii")
