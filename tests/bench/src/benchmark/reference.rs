//! Saved figures of the instruction clock. It repeats to a fraction of a percent, so differences come from code changes.

use std::fmt::Write as _;

use super::file::{Figure, FigureFile};

/// Differences below this are noise: where the guest's timer ticks fall, for instance.
const NOISE: f64 = 0.003;

/// The figures to keep: those of the instruction clock.
pub(crate) fn of(figures: &FigureFile) -> FigureFile {
    let metrics = figures.metrics.iter().filter(|figure| repeats(figure)).cloned().collect();
    FigureFile { metrics, host: figures.host.clone() }
}

/// Their names tell them.
fn repeats(figure: &Figure) -> bool {
    figure.name.contains("_icount_")
        || figure.name.starts_with("stub_instructions")
        || figure.name.starts_with("stub_hypercalls")
}

/// Says how the instruction clock's figures differ from those kept.
pub(crate) fn difference(reference: &FigureFile, now: &FigureFile) -> String {
    let mut text = String::new();
    let mut rows = String::new();
    for figure in now.metrics.iter().filter(|figure| repeats(figure)) {
        let before = reference.get(&figure.name);
        for (who, now, before) in [
            ("pciback", figure.pciback, before.and_then(|before| before.pciback)),
            ("pcidom", figure.pcidom, before.and_then(|before| before.pcidom)),
        ] {
            let (Some(now), Some(before)) = (now, before) else { continue };
            let change = now / before - 1.0;
            if change.abs() > NOISE {
                let percent = 100.0 * change;
                let _ = writeln!(rows, "  {:40} {who:8} {before:12.2} -> {now:12.2}  {percent:+.1} %", figure.name);
            }
        }
    }
    if now.metrics.iter().any(repeats) {
        let _ = match rows.is_empty() {
            true => writeln!(text, "By the instruction clock nothing differs from tests/bench/reference.json."),
            false => writeln!(text, "By the instruction clock these differ from tests/bench/reference.json:\n{rows}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::{figure, file};
    use super::*;

    #[test]
    fn differences_are_shown_for_what_repeats_and_only_there() {
        let before = file(vec![
            figure("config_read_icount_us", Some(70.0), 40.0),
            figure("config_write_icount_us", Some(70.0), 40.0),
            figure("config_read_p50_us", Some(700.0), 200.0),
        ]);
        let now = file(vec![
            figure("config_read_icount_us", Some(70.1), 38.0),
            figure("config_write_icount_us", Some(70.0), 40.0),
            figure("config_read_p50_us", Some(900.0), 300.0),
        ]);
        let text = difference(&before, &now);
        assert!(text.contains("config_read_icount_us") && text.contains("-5.0 %"), "{text}");
        assert!(!text.contains("config_write") && !text.contains("p50") && !text.contains("pciback"), "{text}");
        assert!(difference(&before, &before).contains("nothing differs"));
        assert_eq!(of(&now).metrics.len(), 2);
    }
}
