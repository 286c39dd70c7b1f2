//! Parses the agent's benchmark samples.

use super::{file::Figure, series::Series};

/// The samples of all figures, in the order in which they were first reported.
#[derive(Default)]
pub(crate) struct Samples(Vec<Series>);

impl Samples {
    /// Takes in a line `figure NAME UNIT WHO ROUND VALUE`; other lines are for people.
    pub(crate) fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let ["figure", name, unit, who, round, value] = words[..] else { return };
        let (Ok(round), Ok(value)) = (round.parse(), value.parse()) else { return };
        let known = self.0.iter().position(|series| series.name == name);
        let index = known.unwrap_or_else(|| {
            self.0.push(Series::new(name, unit));
            self.0.len() - 1
        });
        let series = &mut self.0[index];
        match who {
            "pciback" => series.pciback.push((round, value)),
            "pcidom" => series.pcidom.push((round, value)),
            _ => {}
        }
    }

    /// One figure for each.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        self.0.iter().map(Series::figure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_put_together_by_name_and_other_lines_are_left_alone() {
        let mut samples = Samples::default();
        for line in [
            "figure b us pciback 0 10",
            "round 1 of 2",
            "figure a us pcidom 0 1.5",
            "figure b us pcidom 0 4",
            "figure b us pcidom zero 4",
            "figure b us somebody 0 4",
        ] {
            samples.line(line);
        }
        let figures = samples.figures();
        assert_eq!(figures.iter().map(|figure| figure.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!((figures[0].pciback, figures[0].pcidom, figures[0].ratio), (Some(10.0), Some(4.0), Some(0.4)));
        assert_eq!((figures[1].pciback, figures[1].pcidom, figures[1].ratio), (None, Some(1.5), None));
    }
}
