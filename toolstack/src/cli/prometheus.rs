//! `pcidom status --prometheus`: the status as a collector reads it (Prometheus' text format, version 0.0.4), for the node exporter's
//! textfile collector and the like.

use std::fmt::Write as _;

/// Metrics, written one after the other.
#[derive(Debug, Default)]
pub(crate) struct Metrics(String);

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, until the backend is started anew.
    Counter,
}

impl Metrics {
    /// Begins a metric. Its name ends as the naming rules have it: `_total` for counters, the unit for others.
    pub(crate) fn begin(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a string does not fail.
        let _ =
            writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", help.replace('\\', "\\\\").replace('\n', "\\n"));
    }

    /// One of its values.
    pub(crate) fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escape(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    /// All of it.
    pub(crate) fn text(self) -> String {
        self.0.trim_end().to_owned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Name, labels, value.
    type Sample = (String, Vec<(String, String)>, f64);

    /// Reads the format as its specification has it.
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Vec<Sample> {
        let (mut samples, mut typed) = (Vec::new(), std::collections::BTreeMap::new());
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                match kind {
                    "HELP" => assert!(!rest.is_empty(), "{line}"),
                    "TYPE" => {
                        assert!(["gauge", "counter"].contains(&rest), "{line}");
                        assert_eq!(rest == "counter", name.ends_with("_total"), "{line}");
                        assert!(typed.insert(name.to_owned(), ()).is_none(), "{name} is begun twice");
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (head, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = head.split_once('{').map_or((head, ""), |(name, labels)| (name, labels));
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
            assert!(typed.contains_key(name), "{name} has no type in front of it");
            samples.push((name.to_owned(), parse_labels(labels), value.parse().unwrap()));
        }
        samples
    }

    fn parse_labels(mut text: &str) -> Vec<(String, String)> {
        let mut labels = Vec::new();
        while !text.is_empty() && text != "}" {
            let (label, rest) = text.split_once("=\"").unwrap();
            let (mut value, mut letters) = (String::new(), rest.char_indices());
            let end = loop {
                match letters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match letters.next().unwrap().1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, letter) => value.push(letter),
                }
            };
            labels.push((label.to_owned(), value));
            text = rest[end + 1..].trim_start_matches(',');
        }
        labels
    }

    #[test]
    fn whatever_a_domain_is_called_stays_one_label() {
        let mut metrics = Metrics::default();
        metrics.begin("a", Kind::Gauge, "help");
        let name = "we\"b\\ {}\n, x=\"1\"";
        metrics.value("a", &[("guest", name), ("id", "5")], 3);
        metrics.value("a", &[], 0.5);
        let parsed = parse(&metrics.text());
        let labels = vec![("guest".to_owned(), name.to_owned()), ("id".to_owned(), "5".to_owned())];
        assert_eq!(parsed, [("a".to_owned(), labels, 3.0), ("a".to_owned(), Vec::new(), 0.5)]);
    }
}
