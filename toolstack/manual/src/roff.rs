//! Text as the macros of man(7) want it.

/// Escapes text, and sets what stands in backticks in bold.
pub(crate) fn text(plain: &str) -> String {
    let mut out = String::new();
    for (index, part) in plain.split('`').enumerate() {
        if index % 2 == 1 {
            out += &bold(part);
        } else {
            out += &escape(part);
        }
    }
    // A line that begins with one of these would be a request.
    if out.starts_with(['.', '\'']) { format!("\\&{out}") } else { out }
}

/// A sentence: the text, with one full stop at its end.
pub(crate) fn sentence(plain: &str) -> String {
    let mut letters = plain.trim().trim_end_matches('.').chars();
    let first = letters.next().map(char::to_uppercase);
    text(&format!("{}{}.", first.map(String::from_iter).unwrap_or_default(), letters.as_str()))
}

/// Escaped text in bold.
pub(crate) fn bold(plain: &str) -> String {
    format!("\\fB{}\\fR", escape(plain))
}

/// Escaped text in italics, for what the user replaces.
pub(crate) fn italic(plain: &str) -> String {
    format!("\\fI{}\\fR", escape(plain))
}

/// An entry of a list: its tag and what it means.
pub(crate) fn entry(tag: &str, meaning: &str) -> String {
    format!(".TP\n{tag}\n{meaning}\n")
}

fn escape(plain: &str) -> String {
    plain.replace('\\', "\\e").replace('-', "\\-").replace('…', "\\|.\\|.\\|.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_no_requests_and_no_hyphens_that_break_options() {
        assert_eq!(text("see `--json`, a-b…"), "see \\fB\\-\\-json\\fR, a\\-b\\|.\\|.\\|.");
        assert_eq!(text(".TP"), "\\&.TP");
        assert_eq!(text("a\\b"), "a\\eb");
    }

    #[test]
    fn sentences_begin_large_and_end_with_one_stop() {
        assert_eq!((sentence("done"), sentence("Done.")), ("Done.".to_owned(), "Done.".to_owned()));
    }
}
