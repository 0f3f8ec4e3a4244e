"""The report of a cycle: Markdown to read in a terminal, HTML of one file to send to somebody.

Both are made from the summary alone, so a report can be made anew from its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cli.cycle.charts import COLOURS, Marker, bar_chart, line_chart
from shared.errors import DataError

Document = dict[str, Any]
Rows = Sequence[Sequence[str]]

IN_SAMPLE = (
    "IN SAMPLE: the pairs were chosen on bars past the start. These figures show what would have "
    "been possible with knowledge of the future and prove nothing."
)
_MOST_PAIRS = 20

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #667085; --rule: #d5dae1;
  --paper: #fff; --good: #00714f; --bad: #b43c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b2; --rule: #39424e;
  --paper: #14181e; --good: #4cc9a0; --bad: #ff9a66; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem;
  border-bottom: 1px solid var(--rule); }
.sub, .empty, figcaption { color: var(--soft); } figure { margin: .8rem 0; }
.verdict { border-left: 5px solid var(--bad); padding: .4rem 1rem; margin: 1.2rem 0; }
.verdict.fit { border-color: var(--good); } .verdict strong { font-size: 1.15rem; }
.warning { border: 2px solid var(--bad); padding: .6rem 1rem; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule);
  text-align: right; white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
td.passed { color: var(--good); } td.failed, td.missing { color: var(--bad); }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); }
svg .grid { stroke: var(--rule); stroke-width: .6; } svg .axis { stroke: var(--soft); }
svg .line { fill: none; stroke-width: 1.1; opacity: .85; }
svg .first { stroke-width: 2; opacity: 1; }
svg .level { fill: none; stroke: var(--soft); stroke-dasharray: 4 4; }
svg .marker { stroke: var(--paper); stroke-width: .8; }
"""


def write_report(document: Document, folder: Path) -> None:
    """Write `report.md` and `report.html`.

    Parameters
    ----------
    document
        The summary of a cycle.
    folder
        Where to.

    Raises
    ------
    DataError
        If the folder cannot be written.
    """
    try:
        (folder / "report.md").write_text(markdown(document), encoding="utf-8")
        (folder / "report.html").write_text(html(document), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; choose another folder") from error


def markdown(document: Document) -> str:
    """Return the report as Markdown."""
    verdict = document["verdict"]
    parts = [f"# Pairs: {document['kind']} cycle", _subtitle(document)]
    if document["is_in_sample"]:
        parts.append(f"**{IN_SAMPLE}**")
    parts += [f"**Verdict: {verdict['decision']}**", _bullets(verdict["reasons"])]
    for title, note, (header, rows) in _sections(document):
        parts += [f"## {title}", note]
        if rows:
            parts.append(_markdown_table(header, rows))
    parts += ["## Recommendations", _bullets(_recommendations(document))]
    return "\n\n".join(part for part in parts if part) + "\n"


def html(document: Document) -> str:
    """Return the report as one self-contained HTML page."""
    verdict = document["verdict"]
    is_fit = verdict["decision"].startswith("fit")
    parts = [f"<h1>Pairs: {document['kind']} cycle</h1>", f"<p class='sub'>{_subtitle(document)}"]
    if document["is_in_sample"]:
        parts.append(f"<p class='warning'>{escape(IN_SAMPLE)}</p>")
    parts.append(
        f"<div class='verdict{' fit' if is_fit else ''}'><strong>Verdict: "
        f"{escape(verdict['decision'])}</strong>{_list(verdict['reasons'])}</div>"
    )
    charts = _charts(document)
    for title, note, (header, rows) in _sections(document):
        parts.append(f"<h2>{escape(title)}</h2>")
        parts.append(f"<p>{escape(note)}</p>" if note else "")
        for caption, chart in charts.get(title, ()):
            parts.append(f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>")
        if rows:
            parts.append(_html_table(header, rows))
    parts.append(f"<h2>Recommendations</h2>{_list(_recommendations(document))}")
    lineage = document["lineage"]
    parts.append(
        f"<p class='sub'>Run {lineage['run_id'][:16]}, code {lineage['code']['version']} "
        f"({lineage['code']['source_sha256'][:12]}).</p>"
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Pairs: {document['kind']} cycle</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _subtitle(document: Document) -> str:
    periods = {name: at[:16].replace("T", " ") for name, at in document["periods"].items()}
    bars = document["market"]["bars"]
    counts = ", ".join(f"{of['symbols']} symbols of {name}" for name, of in bars.items())
    sources = ", ".join(document["market"]["price_sources"])
    return (
        f"{document['market']['venue']}, {counts}, prices: {sources}. Fitted from "
        f"{periods['start_ms']}, compared from {periods['validation_ms']}, tested from "
        f"{periods['test_start_ms']} to {periods['end_ms']} UTC."
    )


def _sections(document: Document) -> list[tuple[str, str, tuple[Sequence[str], Rows]]]:
    """Return title, note and table of every section, in order."""
    return [
        ("Gates", _evidence_note(document), _gates(document)),
        ("Columns", _columns_note(document), _columns(document)),
        ("Risk", "", _risk(document)),
        ("Pairs", _pairs_note(document), _pairs(document)),
        ("Symbols", _symbols_note(document), _symbols(document)),
        ("Model", _model_note(document), _model(document)),
        (
            "Robustness",
            "The test again with other costs and neighbouring thresholds. Nothing is chosen by it.",
            _robustness(document),
        ),
        ("Months", "", _months(document)),
        ("Rosters", _rosters_note(document), _rosters(document)),
    ]


def _evidence_note(document: Document) -> str:
    evidence, n_trials = document["evidence"], document["trials"]["n_trials"]
    power = ", ".join(
        f"{probability:.0%} at {sharpe}" for sharpe, probability in document["power"].items()
    )
    could = (
        f"With {n_trials} trials on the ledger and a test of "
        f"{len(document['daily']['at_ms'])} days, a true annual Sharpe ratio passes the gates, "
        f"drawdown aside, with a probability of {power}."
    )
    if evidence is None:
        return f"There is no candidate, so nothing was measured. {could}"
    interval = evidence["sharpe_interval"]
    periods = evidence["minimum_track_record_periods"]
    needed = (
        "no length of it would be significant"
        if periods is None
        else f"{periods:,.0f} days of it would be significant"
    )
    return (
        f"Sharpe ratio {evidence['performance']['sharpe_ratio']:.2f}, 95 % interval "
        f"{interval['lower']:.2f} to {interval['upper']:.2f} (stationary bootstrap); probability "
        f"that the true one is above zero {evidence['probabilistic_sharpe']:.1%}. For a "
        f"record like this {needed}; luck alone among the trials reaches the Sharpe ratio asked "
        f"for on less than {evidence['minimum_backtest_years']:.1f} years. {could}"
    )


def _gates(document: Document) -> tuple[Sequence[str], Rows]:
    rows = [
        (
            gate["gate"].replace("_", " "),
            _number(gate["value"]),
            f"{gate['comparison']} {gate['threshold']:g}",
            gate["verdict"],
        )
        for gate in document["gates"]
    ]
    return ("gate", "value", "needed", "verdict"), rows


def _columns_note(document: Document) -> str:
    untrained = "; ".join(f"{name}: {why}" for name, why in document["untrained"].items())
    shown = document["candidate"]
    note = (
        f"Each was traded over the test, net of costs. {shown} earned the best Sharpe ratio of the "
        "validation period and is the candidate."
        if shown
        else "No model could be trained."
    )
    return f"{note} Not trained: {untrained}." if untrained else note


def _columns(document: Document) -> tuple[Sequence[str], Rows]:
    rows = []
    for column in document["columns"]:
        test, folds = column["test"], column.get("folds") or {}
        rows.append(
            (
                column["name"],
                _number(folds.get("roc_auc")),
                _number(folds.get("pr_auc")),
                _number(folds.get("brier")),
                _number(column.get("validation_sharpe")),
                _number(test["sharpe_ratio"]),
                _percent(test["total_return"]),
                _percent(test["max_drawdown"]),
                str(column["n_trades"]),
                f"{column['fees'] + column['funding']:,.0f}",
            )
        )
    header = (
        "column", "ROC AUC", "PR AUC", "Brier", "Sharpe, validation", "Sharpe, test",
        "return", "drawdown", "trades", "costs USDT",
    )  # fmt: skip
    return header, rows


def _risk(document: Document) -> tuple[Sequence[str], Rows]:
    column = next(c for c in document["columns"] if c["name"] == document["shown"])
    test, trades, exposure = column["test"], document["trades"], document["exposure"]
    figures = [
        ("return", _percent(test["total_return"])),
        ("annual growth", _percent(test["annual_growth"])),
        ("annual volatility", _percent(test["annual_volatility"])),
        ("Sharpe ratio", _number(test["sharpe_ratio"])),
        ("Sortino ratio", _number(test["sortino_ratio"])),
        ("Calmar ratio", _number(test["calmar_ratio"])),
        ("maximum drawdown", _percent(test["max_drawdown"])),
        ("longest drawdown (days)", str(test["longest_drawdown_periods"])),
        ("winning days", _percent(test["hit_rate"])),
        ("trades closed", str(trades["n_trades"])),
        ("win rate", _percent(trades["win_rate"])),
        ("profit factor", _number(trades["profit_factor"])),
        ("mean profit (USDT)", _number(trades["mean_profit"])),
        ("mean time held (bars)", _number(trades["mean_hold_bars"])),
        ("longest run of losses", str(trades["longest_losses"])),
        ("annual turnover (x equity)", _number(exposure["annual_turnover"])),
        ("time in the market", _percent(exposure["time_in_market"])),
        ("largest gross exposure", _percent(exposure["max_gross"])),
        ("mean net exposure, size", _percent(exposure["mean_absolute_net"])),
        ("spread increments, before costs", _percent(document["spread_increments"])),
    ]
    return (document["shown"], "value"), figures


def _pairs_note(document: Document) -> str:
    if not document["pairs"]:
        return "No pair was traded."
    n_more = len(document["pairs"]) - _MOST_PAIRS
    return f"The best {_MOST_PAIRS}; {n_more} more are in the summary." if n_more > 0 else ""


def _pairs(document: Document) -> tuple[Sequence[str], Rows]:
    rows = [
        (
            pair["pair"],
            f"{pair['profit']:,.2f}",
            f"{pair['fees_e8'] / 1e8:,.2f}",
            f"{pair['funding_e8'] / 1e8:,.2f}",
            str(pair["n_positions"]),
            _percent(pair["trades"]["win_rate"]),
            _number(pair["trades"]["profit_factor"]),
            _number(pair["trades"]["mean_hold_bars"]),
        )
        for pair in document["pairs"][:_MOST_PAIRS]
    ]
    header = (
        "pair", "profit USDT", "fees", "funding", "trades", "win rate", "profit factor",
        "mean bars held",
    )  # fmt: skip
    return header, rows


def _symbols_note(document: Document) -> str:
    if not document["symbols"]:
        return ""
    n_more = len(document["symbols"]) - _MOST_PAIRS
    note = (
        "The legs of all pairs in a symbol together: what was held times the return of each bar, "
        "what fills gained or lost against the mark, less costs."
    )
    return (
        f"{note} The best {_MOST_PAIRS}; {n_more} more are in the summary." if n_more > 0 else note
    )


def _symbols(document: Document) -> tuple[Sequence[str], Rows]:
    names = ("profit", "held", "execution", "fees", "funding")
    rows = [
        (
            symbol["symbol"],
            *(f"{symbol[f'{name}_e8'] / 1e8:,.2f}" for name in names),
            str(symbol["n_fills"]),
        )
        for symbol in document["symbols"][:_MOST_PAIRS]
    ]
    return ("symbol", "profit USDT", *names[1:], "fills"), rows


def _model_note(document: Document) -> str:
    model = document["model"]
    if model is None:
        return "There is no candidate."
    note = ""
    if model["calibration"] is not None:
        note = (
            "On the labels of the test, the mean distance of outcome from forecast is "
            f"{model['calibration']['expected_error']:.3f}. "
        )
    if model["rank_correlation"] is not None:
        note += (
            "The folds rank the features alike with a correlation of "
            f"{model['rank_correlation']:.2f}. "
        )
    return note + "Importance by permutation is the rise of the log loss out of sample."


def _model(document: Document) -> tuple[Sequence[str], Rows]:
    if document["model"] is None:
        return (), ()
    features = sorted(document["model"]["importances"], key=lambda f: -(f["permutation"] or 0.0))
    rows = [
        (
            feature["feature"],
            _number(feature["permutation"]),
            _number(feature["deviation"]),
            _percent(feature["own"]),
        )
        for feature in features[:10]
    ]
    return ("feature", "by permutation", "deviation over folds", "the model's own"), rows


def _robustness(document: Document) -> tuple[Sequence[str], Rows]:
    rows = [
        (
            variant["name"],
            _number(variant["test"]["sharpe_ratio"]),
            _percent(variant["test"]["total_return"]),
            _percent(variant["test"]["max_drawdown"]),
            str(variant["n_trades"]),
        )
        for variant in document["robustness"]
    ]
    return ("variant", "Sharpe", "return", "drawdown", "trades"), rows


def _months(document: Document) -> tuple[Sequence[str], Rows]:
    rows = [
        (
            month["month"],
            str(month["n_days"]),
            _percent(month["return"]),
            _percent(month["max_drawdown"]),
        )
        for month in document["months"]
    ]
    return ("month", "days", "return", "drawdown"), rows


def _rosters_note(document: Document) -> str:
    rosters = document["rosters"]
    n_empty = sum(not roster["pairs"] for roster in rosters)
    return f"{len(rosters)} screens, {n_empty} of them with an empty roster."


def _rosters(document: Document) -> tuple[Sequence[str], Rows]:
    rows = [
        (
            roster["closes_at"][:16].replace("T", " "),
            str(sum(pair["status"] == "active" for pair in roster["pairs"])),
            roster["summary"],
        )
        for roster in document["rosters"]
    ]
    return ("screened at", "active", "what was found"), rows


def _recommendations(document: Document) -> list[str]:
    decision = document["verdict"]["decision"]
    if document["is_in_sample"]:
        return ["Screen on bars before the start and run the cycle again: nothing here may trade."]
    if decision.startswith("fit"):
        return ["Let the candidate signal in the champion's shadow before it is promoted."]
    advice = ["Do not promote."]
    costs = {variant["name"]: variant["test"]["total_return"] for variant in document["robustness"]}
    if document["trades"]["n_trades"]:
        is_losing = costs["costs x 1"] <= 0
        if is_losing and document["spread_increments"] > 0:
            advice.append(
                "The spreads came home but costs took more than that: raise the entry threshold or "
                "hold longer before looking for another model."
            )
        elif costs["costs x 1"] > 0 >= costs["costs x 2"]:
            advice.append("Twice the costs would take all of the profit: look at execution first.")
    elif any(roster["pairs"] for roster in document["rosters"]):
        advice.append(
            "Nothing was traded though there were pairs: no entry was likely enough. Look at the "
            "calibration and at what the z rule made of the same entries."
        )
    else:
        advice.append(
            "Nothing was traded. An empty roster is an answer: on these bars no pair can be told "
            "from chance at this level. Wait for more bars rather than lower the level."
        )
    return advice


def _charts(document: Document) -> dict[str, list[tuple[str, str]]]:
    """Return captions and charts by the section they stand in."""
    daily, shown = document["daily"], document["shown"]
    at = daily["at_ms"]
    equity = {shown: daily["equity"][shown]} | daily["equity"]
    charts: dict[str, list[tuple[str, str]]] = {
        "Columns": [
            ("Equity over the test, USDT.", line_chart(at, equity, label="equity")),
        ],
        "Risk": [
            (
                f"Drawdown of {shown}.",
                line_chart(
                    at,
                    {"drawdown": [-value for value in daily["drawdown"]]},
                    label="drawdown",
                    is_share=True,
                ),
            ),
            (
                f"Exposure of {shown} at the end of each day, as a share of equity.",
                line_chart(
                    at,
                    {"gross": daily["gross"], "net": daily["net"]},
                    label="exposure",
                    is_share=True,
                ),
            ),
        ],
        "Pairs": [
            (
                "Profit by pair, net of costs, USDT.",
                bar_chart(
                    {pair["pair"]: pair["profit"] for pair in document["pairs"][:_MOST_PAIRS]},
                    label="profit by pair",
                ),
            )
        ],
    }
    best = document["best_pair"]
    if best is not None:
        charts["Pairs"] += [
            (
                f"z-score of {best['pair']}, the best pair; triangles enter, circles exit.",
                line_chart(
                    best["at_ms"],
                    {"z-score": best["z_score"]},
                    label=f"z-score of {best['pair']}",
                    levels=(0.0,),
                    markers=[_signal(signal) for signal in best["signals"]],
                ),
            ),
            (
                f"Spread of {best['pair']}.",
                line_chart(
                    best["at_ms"], {"spread": best["spread"]}, label=f"spread of {best['pair']}"
                ),
            ),
        ]
    calibration = document["model"] and document["model"]["calibration"]
    if calibration:
        charts["Model"] = [
            (
                "How often label 1 came in the test, by forecast; dashed where both agree.",
                line_chart(
                    calibration["forecast"],
                    {"outcome": calibration["outcome"]},
                    label="calibration",
                    is_time=False,
                    diagonal=True,
                    markers=[
                        Marker(x, y, "circle", COLOURS[0], f"{n} samples")
                        for x, y, n in zip(
                            calibration["forecast"],
                            calibration["outcome"],
                            calibration["n_samples"],
                            strict=True,
                        )
                    ],
                ),
            )
        ]
    return charts


def _signal(signal: dict[str, Any]) -> Marker:
    is_long = signal["side"] > 0
    if not signal["is_entry"]:
        shape, colour, tooltip = "circle", COLOURS[3], "exit"
    else:
        shape = "up" if is_long else "down"
        colour = COLOURS[2] if is_long else COLOURS[4]
        tooltip = f"enter {'long' if is_long else 'short'}"
    z_score = signal["z_score"]
    return Marker(signal["at_ms"], z_score, shape, colour, f"{tooltip} at z {z_score:.2f}")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.3g}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _markdown_table(header: Sequence[str], rows: Rows) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    lines = [header, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _html_table(header: Sequence[str], rows: Rows) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return (
        f"<div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    verdict = f" class='{text}'" if text in {"passed", "failed", "missing"} else ""
    return f"<td{verdict}>{escape(text)}</td>"
