//! Benchmark figures as a Markdown table, in the form used in `docs/performance.md`.

use std::fmt::Write as _;

use super::{file::Figure, goals};

/// A table of all figures.
pub(crate) fn of(figures: &[Figure]) -> String {
    let mut text = String::new();
    row(&mut text, ["figure (its unit at the end)", "xen-pciback", "pcidom", "ratio", "in the rounds", "goal"]);
    let _ = writeln!(text, "|---|--:|--:|--:|--:|---|");
    for figure in figures {
        let goal = goals::of(&figure.name).map_or_else(String::new, |goal| {
            let verdict = if goal.is_reached(figure.pcidom, figure.ratio) { "reached" } else { "missed" };
            format!("{goal}: {verdict}")
        });
        let spread = match (figure.ratio_min, figure.ratio_max) {
            (Some(min), Some(max)) => format!("{min:.2} to {max:.2}"),
            _ => String::new(),
        };
        let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let (pciback, pcidom) = (number(figure.pciback), number(figure.pcidom));
        row(&mut text, [&format!("`{}`", figure.name), &pciback, &pcidom, &ratio, &spread, &goal]);
    }
    text
}

/// Columns under each other also where nobody renders the table.
fn row(text: &mut String, [figure, pciback, pcidom, ratio, spread, goal]: [&str; 6]) {
    let _ = writeln!(text, "| {figure:40} | {pciback:>11} | {pcidom:>9} | {ratio:>5} | {spread:>15} | {goal} |");
}

/// Three digits are more than most figures are worth; large ones are counts.
fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::figure;
    use super::*;

    #[test]
    fn a_goal_that_is_missed_says_so() {
        let text = of(&[
            figure("config_read_p50_us", Some(700.0), 300.0),
            figure("config_dump_4k_us", Some(700.0), 300.0),
            figure("image_size_bytes", None, 131_000.0),
            figure("something_else_us", None, 1.0),
        ]);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(lines[0].ends_with("| at most 0.5: reached |") && lines[0].contains("0.43 to 0.43"), "{text}");
        assert!(lines[1].ends_with("| at most 0.3: missed |"), "{text}");
        assert!(lines[2].ends_with("| at most 131072: reached |"), "{text}");
        assert!(lines[3].starts_with("| `something_else_us` ") && lines[3].ends_with("|  |"), "{text}");
        assert!(lines.iter().all(|line| line.matches('|').count() == 7), "{text}");
    }
}
