//! The whole system: the real commands, the real broker and the real backend with guests that come and go, answer or do not. Whatever goes wrong,
//! and whenever it does, afterwards the tool's table, Xen's rights, the stub's pool and what guests see agree, and all that was given can be taken back.
//!
//! Two walks. One goes through schedules, a seed each: what is done, by whom, and what goes wrong meanwhile. The other plays short scenarios again and
//! again, and has another call fail each time. A failure is made as short as it can be, and says how to see it again:
//!
//! | variable | what |
//! |---|---|
//! | `PCIDOM_SEED` | the first schedule |
//! | `PCIDOM_SEEDS` | how many; without `PCIDOM_SEED` from 0 on |
//! | `PCIDOM_STEPS` | only these steps of each, by their numbers: `0,3,7` |
//! | `PCIDOM_STRIDE` | every so-manyth call of each scenario fails; 1 for all |
//! | `PCIDOM_POINT` | only this one: `detach:call:113`, or `detach:request:40` |
//!
//! `make sim` sets them.

mod play;
mod points;
mod schedules;
mod step;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a check that failed has said.
fn said(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("something").to_owned()
}
