//! `build/bench.json`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Figures, and where they were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FigureFile {
    pub(crate) metrics: Vec<Figure>,
    pub(crate) host: Host,
}

/// One figure: medians over all rounds, and the ratios of the rounds (pcidom to pciback). `null` is what one of the two does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) pciback: Option<f64>,
    pub(crate) pcidom: Option<f64>,
    pub(crate) ratio: Option<f64>,
    pub(crate) ratio_min: Option<f64>,
    pub(crate) ratio_max: Option<f64>,
}

/// The machine that measured, and what ran on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) qemu: String,
    pub(crate) debian: u32,
    pub(crate) xen: String,
    pub(crate) pcidom: String,
}

impl FigureFile {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// The figure of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Figure> {
        self.metrics.iter().find(|figure| figure.name == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn figure(name: &str, pciback: Option<f64>, pcidom: f64) -> Figure {
        let ratio = pciback.map(|pciback| pcidom / pciback);
        Figure {
            name: name.to_owned(),
            unit: "us".to_owned(),
            pciback,
            pcidom: Some(pcidom),
            ratio,
            ratio_min: ratio,
            ratio_max: ratio,
        }
    }

    pub(crate) fn file(metrics: Vec<Figure>) -> FigureFile {
        let text = || "text with \"quotes\"".to_owned();
        FigureFile {
            metrics,
            host: Host { cpu: text(), cpus: 2, qemu: text(), debian: 12, xen: text(), pcidom: text() },
        }
    }

    #[test]
    fn what_is_written_reads_back_as_it_was_with_every_field_there() {
        let file =
            file(vec![figure("config_read_p50_us", Some(630.25), 215.5), figure("image_size_bytes", None, 130_000.0)]);
        let path = std::env::temp_dir().join(format!("pcidom-figures-{}.json", std::process::id()));
        file.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(FigureFile::read(&path).unwrap(), file);
        fs::remove_file(&path).unwrap();
        // Readers may count on each field: what is not known is null.
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        for metric in value["metrics"].as_array().unwrap() {
            for field in ["name", "unit", "pciback", "pcidom", "ratio", "ratio_min", "ratio_max"] {
                assert!(metric.get(field).is_some(), "{field} of {metric}");
            }
        }
        assert!(value["metrics"][1]["ratio"].is_null() && value["host"]["cpus"] == 2);
    }
}
