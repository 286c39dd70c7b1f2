//! Figures for people.

use std::fmt::Write as _;

use super::{file::Figure, goals};

/// A table of all figures.
pub(crate) fn of(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:40} {:>12} {:>12} {:>7} {:>15}  {}\n",
        "figure (its unit is at the end)", "xen-pciback", "pcidom", "ratio", "of all rounds", "goal"
    );
    for figure in figures {
        let goal = goals::of(&figure.name).map_or_else(String::new, |goal| {
            let verdict = if goal.is_reached(figure.pcidom, figure.ratio) { "reached" } else { "MISSED" };
            format!("{goal}: {verdict}")
        });
        let spread = match (figure.ratio_min, figure.ratio_max) {
            (Some(min), Some(max)) => format!("{min:.2} to {max:.2}"),
            _ => String::new(),
        };
        let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let (pciback, pcidom) = (number(figure.pciback), number(figure.pcidom));
        // The end of a line without a goal would be blanks.
        let line = format!("{:40} {pciback:>12} {pcidom:>12} {ratio:>7} {spread:>15}  {goal}", figure.name);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Three digits are more than most figures are worth; large ones are counts.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
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
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("<= x0.5: reached") && lines[1].contains("0.43 to 0.43"), "{text}");
        assert!(lines[2].ends_with("<= x0.3: MISSED"), "{text}");
        assert!(lines[3].ends_with("<= 131072: reached"), "{text}");
        assert!(lines[4].ends_with(" 1"), "{text}");
    }
}
