//! A chart of `build/bench.json`, as SVG.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Result, ensure};

use super::file::{Figure, FigureFile};
use crate::layout;

/// What the chart shows: figures, and what to call them. Of those that a run has in real time and by the instruction clock the chart has both.
const BARS: &[(&str, &str)] = &[
    ("config_read_native_p50_us", "configuration read (native TSC)"),
    ("config_read_p50_us", "configuration read (default guest)"),
    ("config_read_busy_dom0_p50_us", "configuration read, dom0 busy"),
    ("config_read_beside_7_p50_us", "configuration read beside 7 noisy guests"),
    ("config_dump_4k_us", "4 KiB of configuration space"),
    ("config_write_us", "write to the hardware"),
    ("msix_enable_us", "MSI-X on"),
    ("msix_pair_us", "MSI-X on and off"),
    ("bus_scan_us", "bus scan"),
    ("attach_ms", "attach, until the driver has it"),
    ("attach_command_ms", "attach, the command"),
    ("detach_ms", "detach"),
    ("config_read_native_icount_us", "read, in instructions (native TSC)"),
    ("config_read_icount_us", "read, in instructions (default guest)"),
    ("config_write_icount_us", "write to the hardware, in instructions"),
    ("msix_enable_icount_us", "MSI-X on, in instructions"),
    ("msix_pair_icount_us", "MSI-X on and off, in instructions"),
    ("attach_icount_ms", "attach, in instructions"),
    ("attach_command_icount_ms", "attach, the command, in instructions"),
    ("detach_icount_ms", "detach, in instructions"),
];

/// Ratios at which the axis may begin, end, and have a line.
const TICKS: [f64; 15] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0, 10000.0];

const ROW: u32 = 26;
const LEFT: u32 = 290;
const WIDTH: u32 = 400;
const TOP: u32 = 60;

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

/// A logarithmic axis on which every ratio has its place.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn of(ratios: &[f64]) -> Self {
        let (least, most) =
            ratios.iter().fold((1.0_f64, 1.0_f64), |(least, most), ratio| (least.min(*ratio), most.max(*ratio)));
        let low = TICKS.iter().rev().find(|tick| **tick <= least).copied().unwrap_or(least);
        let high = TICKS.iter().find(|tick| **tick >= most && **tick > 1.0).copied().unwrap_or(most);
        Self { low, high }
    }

    fn x(&self, ratio: f64) -> f64 {
        f64::from(LEFT) + f64::from(WIDTH) * (ratio / self.low).ln() / (self.high / self.low).ln()
    }
}

/// Bars from 1 to pcidom's part of what xen-pciback takes: to the left where that is less, to the right where it is more. The spread of the rounds is
/// a line over it, and the numbers stand in a column of their own.
fn svg(figures: &[(&Figure, &str)]) -> String {
    let spread = |figure: &Figure| {
        let ratio = figure.ratio.filter(|ratio| *ratio > 0.0)?;
        let end = |end: Option<f64>| end.filter(|end| *end > 0.0).unwrap_or(ratio);
        Some([end(figure.ratio_min).min(ratio), ratio, end(figure.ratio_max).max(ratio)])
    };
    let shown: Vec<([f64; 3], &str)> =
        figures.iter().filter_map(|(figure, label)| Some((spread(figure)?, *label))).collect();
    let axis = Axis::of(&shown.iter().flat_map(|(spread, _)| *spread).collect::<Vec<_>>());
    let rows = u32::try_from(shown.len()).unwrap_or(0);
    let (width, height) = (LEFT + WIDTH + 70, TOP + rows * ROW + 12);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-weight=\"bold\">What pcidom takes, xen-pciback = 1, logarithmic: to the left it is faster, to the right slower</text>\n"
    );
    for tick in TICKS.into_iter().filter(|tick| (axis.low..=axis.high).contains(tick)) {
        let (x, stroke) = (axis.x(tick), if tick == 1.0 { "#333" } else { "#ccc" });
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"42\" text-anchor=\"middle\" font-size=\"11\">{tick}</text>\n\
             <line x1=\"{x:.1}\" y1=\"48\" x2=\"{x:.1}\" y2=\"{height}\" stroke=\"{stroke}\"/>"
        );
    }
    for (row, ([least, ratio, most], label)) in (0u32..).zip(shown) {
        let y = TOP + row * ROW;
        let (from, to) = (axis.x(ratio.min(1.0)), axis.x(ratio.max(1.0)));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"16\" fill=\"{}\"/>\n\
             <line x1=\"{:.1}\" y1=\"{mid}\" x2=\"{:.1}\" y2=\"{mid}\" stroke=\"#123\" stroke-width=\"2\"/>\n\
             <text x=\"{}\" y=\"{base}\">{ratio:.2}</text>",
            LEFT - 8,
            to - from,
            if ratio <= 1.0 { "#3b7dd8" } else { "#d8733b" },
            axis.x(least),
            axis.x(most),
            LEFT + WIDTH + 12,
            base = y + 13,
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
    fn each_figure_has_its_bar_on_its_side_of_one() {
        let (read, write) = (figure("read", Some(100.0), 50.0), figure("write", Some(100.0), 2000.0));
        let text = svg(&[(&read, "a read"), (&write, "a write")]);
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{text}");
        // From 0.5 to 20: one is at ln 2 of ln 40.
        let one = f64::from(LEFT) + f64::from(WIDTH) * 2.0_f64.ln() / 40.0_f64.ln();
        let left = format!("<rect x=\"{LEFT}.0\" y=\"{TOP}\" width=\"{:.1}\"", one - f64::from(LEFT));
        let right = format!("<rect x=\"{one:.1}\" y=\"{}\" width=\"{:.1}\"", TOP + ROW, f64::from(LEFT + WIDTH) - one);
        assert!(text.contains(&left) && text.contains(&right), "{text}");
        assert!(text.contains(">a read<") && text.contains(">0.50<"), "{text}");
        assert!(text.contains(">a write<") && text.contains(">20.00<"), "{text}");
    }

    #[test]
    fn nothing_lies_beside_the_axis() {
        for ratios in [&[][..], &[0.26, 0.31], &[27.0], &[0.0003, 200_000.0], &[1.0]] {
            let axis = Axis::of(ratios);
            for ratio in ratios.iter().chain(&[1.0]) {
                let x = axis.x(*ratio);
                assert!((f64::from(LEFT)..=f64::from(LEFT + WIDTH)).contains(&x), "{ratio} at {x}");
            }
        }
    }
}
