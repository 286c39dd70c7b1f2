//! A chart of `build/bench.json`, as SVG.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Result, ensure};

use super::file::{Figure, FigureFile};
use crate::layout;

/// What the chart shows: figures, and what to call them.
const BARS: &[(&str, &str)] = &[
    ("config_read_native_p50_us", "configuration read (native TSC)"),
    ("config_read_p50_us", "configuration read (default guest)"),
    ("config_read_busy_dom0_p50_us", "configuration read, dom0 busy"),
    ("config_dump_4k_us", "4 KiB of configuration space"),
    ("bus_scan_us", "bus scan"),
    ("attach_ms", "attach"),
    ("detach_ms", "detach"),
    ("config_read_native_icount_us", "read, in instructions (native TSC)"),
    ("config_read_icount_us", "read, in instructions (default guest)"),
];

const ROW: u32 = 26;
const LEFT: u32 = 250;
const WIDTH: u32 = 400;
const TOP: u32 = 44;

/// Writes the chart beside the figures.
pub(crate) fn run() -> Result<bool> {
    let figures = FigureFile::read(Path::new(layout::FIGURES))?;
    let shown: Vec<(&Figure, &str)> =
        BARS.iter().filter_map(|(name, label)| Some((figures.get(name)?, *label))).collect();
    ensure!(!shown.is_empty(), "{} has nothing that the chart shows", layout::FIGURES);
    fs::write(layout::CHART, svg(&shown))?;
    println!("{}", layout::CHART);
    Ok(true)
}

/// Bars: each is pcidom's part of what xen-pciback takes, with the spread of the rounds as a line over its end.
fn svg(figures: &[(&Figure, &str)]) -> String {
    let rows = u32::try_from(figures.len()).unwrap_or(0);
    let (width, height) = (LEFT + WIDTH + 70, TOP + rows * ROW + 12);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-weight=\"bold\">Time that pcidom takes, xen-pciback = 1 (shorter is better)</text>\n\
         <line x1=\"{one}\" y1=\"28\" x2=\"{one}\" y2=\"{height}\" stroke=\"#888\" stroke-dasharray=\"3 3\"/>\n",
        one = LEFT + WIDTH
    );
    for (row, (figure, label)) in (0u32..).zip(figures) {
        let Some(ratio) = figure.ratio else { continue };
        let y = TOP + row * ROW;
        let x = |ratio: f64| f64::from(LEFT) + f64::from(WIDTH) * ratio.clamp(0.0, 1.1);
        let (from, to) = (x(figure.ratio_min.unwrap_or(ratio)), x(figure.ratio_max.unwrap_or(ratio)));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"16\" fill=\"#3b7dd8\"/>\n\
             <line x1=\"{from:.1}\" y1=\"{mid}\" x2=\"{to:.1}\" y2=\"{mid}\" stroke=\"#123\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>",
            LEFT - 8,
            y + 13,
            x(ratio) - f64::from(LEFT),
            x(ratio).max(to) + 6.0,
            y + 13,
            mid = y + 8,
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::figure;
    use super::*;

    #[test]
    fn each_figure_has_its_bar() {
        let (read, scan) = (figure("read", Some(100.0), 25.0), figure("scan", Some(100.0), 50.0));
        let text = svg(&[(&read, "a read"), (&scan, "a scan")]);
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{text}");
        assert!(text.contains(">a read<") && text.contains("width=\"100.0\"") && text.contains(">0.25<"), "{text}");
        assert!(text.contains(">a scan<") && text.contains("width=\"200.0\"") && text.contains(">0.50<"), "{text}");
    }
}
