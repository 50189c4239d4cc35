//! The tables and the charts of `docs/performance.md`, and where they were measured.

use std::{fmt::Write, path::Path};

use sqlx::{Connection, PgConnection};

use crate::{domain::Outcome, measure::Row};

/// A part of the page, between marks of its name: tables, and a chart beside the page.
pub struct Part {
    pub name: &'static str,
    /// The heading over what was measured.
    pub measured: &'static str,
    /// The heading over what it was measured against.
    pub yardstick: &'static str,
}

/// The machine and the server, as they say themselves.
pub async fn circumstances(url: &str) -> Outcome<String> {
    let mut connection = PgConnection::connect(url).await?;
    let setting = "SELECT string_agg(name || '=' || setting || coalesce(unit, ''), ' ' ORDER BY name) FROM pg_settings
                    WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'commit_delay')";
    let settings: String = sqlx::query_scalar(setting).fetch_one(&mut connection).await?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    Ok(format!("{cores} cores {model}; PostgreSQL {version} on the same machine, over a socket, {settings}"))
}

/// Puts the tables and the chart of a part into a page; what was not measured this time stays.
pub fn write(page: &Path, part: &Part, circumstances: &str, rows: &[Row]) -> Outcome<()> {
    let Part { name, measured, yardstick } = part;
    let (begin, end) = (format!("<!-- {name}: begin -->"), format!("<!-- {name}: end -->"));
    let text = std::fs::read_to_string(page)?;
    let (before, rest) = text.split_once(&begin).ok_or("the page has no mark for the begin")?;
    let (there, after) = rest.split_once(&end).ok_or("the page has no mark for the end")?;
    let rows = &together(written(there), rows);
    let chart = page.with_file_name(format!("{name}.svg"));
    std::fs::write(&chart, svg(rows))?;
    let chart = chart.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut tables = format!("{begin}\nMeasured on {circumstances}.\n\n![Ratios to the yardsticks]({chart})\n");
    let mut bench = "";
    for row in rows {
        if row.bench != bench {
            bench = &row.bench;
            write!(
                tables,
                "\n| {bench} | {measured} | {yardstick} | | ratio | spread |\n|---|---:|---:|---|---:|---|\n"
            )?;
        }
        let Row { case, ours, yardstick, unit, ratio, spread, .. } = row;
        let (ours, yardstick) = (number(*ours), number(*yardstick));
        writeln!(
            tables,
            "| {case} | {ours} | {yardstick} | {unit} | **{ratio:.2} ×** | {:.2}–{:.2} |",
            spread.0, spread.1
        )?;
    }
    std::fs::write(page, format!("{before}{tables}{end}{after}"))?;
    Ok(())
}

/// The rows of tables that were written before.
fn written(tables: &str) -> Vec<Row> {
    let mut rows = vec![];
    let mut bench = "";
    for line in tables.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, case, ours, yardstick, unit, ratio, spread, _] = cells[..] else { continue };
        if unit.is_empty() {
            bench = case;
        }
        let number = |text: &str| text.replace(',', "").trim_matches(['*', ' ', '×']).parse().ok();
        let spread = spread.split_once('–').and_then(|(least, most)| Some((number(least)?, number(most)?)));
        let (Some(ours), Some(yardstick), Some(ratio), Some(spread)) =
            (number(ours), number(yardstick), number(ratio), spread)
        else {
            continue;
        };
        rows.push(Row { bench: bench.into(), case: case.into(), ours, yardstick, ratio, spread, unit: unit.into() });
    }
    rows
}

/// What was measured now, each bench in the place of its last measurement.
fn together(mut before: Vec<Row>, now: &[Row]) -> Vec<Row> {
    let mut rows = vec![];
    let mut new: Vec<_> = now.to_vec();
    while !before.is_empty() {
        let row = before.remove(0);
        if !now.iter().any(|now| now.bench == row.bench) {
            rows.push(row);
            continue;
        }
        let (same, others) = new.into_iter().partition(|new| new.bench == row.bench);
        rows.extend::<Vec<_>>(same);
        new = others;
    }
    rows.extend(new);
    rows
}

/// Three digits that count, thousands apart.
fn number(number: f64) -> String {
    if number < 100.0 {
        return format!("{number:.3}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar for each ratio, and a line where both would be equal.
fn svg(rows: &[Row]) -> String {
    const LEFT: f64 = 330.0;
    const WIDTH: f64 = 420.0;
    const LINE: f64 = 22.0;
    let most = rows.iter().map(|row| row.ratio).fold(1.0, f64::max) * 1.1;
    let height = 30.0 + LINE * rows.len() as f64;
    let x = |ratio: f64| LEFT + WIDTH * ratio / most;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"820\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (row, n) in rows.iter().zip(0_i32..) {
        let y = 20.0 + LINE * f64::from(n);
        let label = format!("{}: {}", row.bench, row.case).replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            text,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"#333\">{label}</text>\
             <rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{:.1}\" height=\"14\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\" fill=\"#333\">{:.2} ×</text>",
            LEFT - 8.0,
            y + 11.0,
            y,
            x(row.ratio) - LEFT,
            if row.ratio >= 1.0 { "#2a7f62" } else { "#6b8cae" },
            x(row.ratio) + 5.0,
            y + 11.0,
            row.ratio,
        );
    }
    let _ = writeln!(
        text,
        "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"10\" y2=\"{height}\" stroke=\"#c33\" stroke-dasharray=\"4 3\"/>\n</svg>",
        x(1.0)
    );
    text
}
