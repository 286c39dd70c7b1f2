//! What a plan says beside the name of a suite (`tests/bench/src/full.rs` writes it).

/// What is behind `NAME=` in a plan.
pub(super) fn option<'a>(options: &'a str, name: &str) -> Option<&'a str> {
    options.split(' ').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
}

/// Whether a case comes before the one that the plan begins with, for a machine that goes on where another one has ended.
pub(super) fn is_before(options: &str, case: &str) -> bool {
    option(options, "from").is_some_and(|from| from != case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_goes_on_where_another_one_has_ended() {
        let rest = |options: &str| ["a", "b", "c"].into_iter().skip_while(|case| is_before(options, case)).count();
        assert_eq!(rest("case= alone=0"), 3);
        assert_eq!(rest("case= alone=0 from=b"), 2);
        assert_eq!(rest("case= alone=0 from=gone"), 0);
    }
}
