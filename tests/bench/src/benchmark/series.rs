//! The samples of one figure.

use super::file::Figure;

/// Samples with the number of the round that they are from.
type Sampled = Vec<(u32, f64)>;

/// One figure of both contestants.
pub(crate) struct Series {
    pub(crate) name: String,
    unit: String,
    pub(crate) pciback: Sampled,
    pub(crate) pcidom: Sampled,
}

impl Series {
    pub(crate) fn new(name: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), pciback: Vec::new(), pcidom: Vec::new() }
    }

    /// Medians over the rounds. The ratio is that of the same round, so that what changes slowly on the host is in both of its sides.
    pub(crate) fn figure(&self) -> Figure {
        let ratios: Vec<f64> = rounds(&self.pciback)
            .into_iter()
            .filter_map(|round| Some(median(&of(&self.pcidom, round))? / median(&of(&self.pciback, round))?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        Figure {
            name: self.name.clone(),
            unit: self.unit.clone(),
            pciback: median(&all(&self.pciback)),
            pcidom: median(&all(&self.pcidom)),
            ratio: median(&ratios),
            ratio_min: ratios.iter().copied().reduce(f64::min),
            ratio_max: ratios.iter().copied().reduce(f64::max),
        }
    }
}

fn rounds(samples: &Sampled) -> Vec<u32> {
    let mut rounds: Vec<u32> = samples.iter().map(|(round, _)| *round).collect();
    rounds.dedup();
    rounds
}

fn of(samples: &Sampled, round: u32) -> Vec<f64> {
    samples.iter().filter(|(number, _)| *number == round).map(|(_, value)| *value).collect()
}

fn all(samples: &Sampled) -> Vec<f64> {
    samples.iter().map(|(_, value)| *value).collect()
}

/// The value in the middle; of the two in the middle their mean.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_the_same_round() {
        // The host became twice as slow in the second round, for both.
        let mut series = Series::new("read", "us");
        series.pciback = vec![(0, 100.0), (1, 200.0), (2, 100.0)];
        series.pcidom = vec![(0, 40.0), (1, 80.0), (2, 50.0)];
        let figure = series.figure();
        assert_eq!((figure.pciback, figure.pcidom), (Some(100.0), Some(50.0)));
        assert_eq!((figure.ratio, figure.ratio_min, figure.ratio_max), (Some(0.4), Some(0.4), Some(0.5)));
    }

    #[test]
    fn what_has_one_side_only_has_no_ratio_nor_has_what_is_compared_with_nothing() {
        let mut series = Series::new("size", "bytes");
        series.pcidom = vec![(0, 1.0), (0, 2.0)];
        assert_eq!((series.figure().pcidom, series.figure().ratio), (Some(1.5), None));
        series.pciback = vec![(0, 0.0)];
        assert_eq!((series.figure().pciback, series.figure().ratio_max), (Some(0.0), None));
    }
}
