//! Work on all devices of a guest as fast as it goes, with a look at every answer.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use drivers::Front as _;
use kernel::clock;
use pciif::Request;
use xen_types::Sbdf;

use crate::front::{XenFront, ask};

/// The first BAR.
const BAR: i32 = 0x10;
/// Times that are kept: the last ones.
const TIMES: usize = 8192;

/// What a device must answer, as it did at first.
struct Known {
    address: Sbdf,
    ids: u32,
    bar: u32,
    /// What is read after ones were written: how large the first BAR is.
    mask: u32,
}

/// For so long: `TURNS turns, WRONG wrong, p50 N p99 N max N ns`, times of one read. A turn is seven requests for each device, and one for a device
/// that there is not.
pub(crate) fn run(front: &mut XenFront, devices: &[Sbdf], milliseconds: u64) -> Result<String, String> {
    let devices: Vec<Known> = devices.iter().map(|device| Known::of(front, *device)).collect::<Result<_, _>>()?;
    if devices.is_empty() {
        return Err("no devices".into());
    }
    let deadline = clock::now_ns() + milliseconds * 1_000_000;
    let mut times = Vec::with_capacity(TIMES);
    let (mut turns, mut wrong) = (0usize, 0u32);
    while clock::now_ns() < deadline {
        for device in &devices {
            let start = clock::now_ns();
            let ids = ask(front, &Request::conf_read(device.address, 0, 4));
            keep(&mut times, turns, clock::now_ns() - start);
            wrong += u32::from(ids.as_ref() != Ok(&device.ids));
            wrong += device.wrong_answers(front);
        }
        // The last function of a bus that has few.
        let nobody = Sbdf::from_devfn(0, 0, 0xff);
        wrong += u32::from(front.ask(&Request::conf_read(nobody, 0, 4)).is_none_or(|response| response.err == 0));
        turns += 1;
    }
    times.sort_unstable();
    let [p50, p99, max] = [50, 99, 100].map(|percent| times.get((times.len() * percent / 100).min(times.len() - 1)));
    let [p50, p99, max] = [p50, p99, max].map(|time| time.copied().unwrap_or_default());
    Ok(format!("{turns} turns, {wrong} wrong, p50 {p50} p99 {p99} max {max} ns"))
}

/// The newest in the place of the oldest.
fn keep(times: &mut Vec<u64>, turn: usize, time: u64) {
    if times.len() < TIMES {
        times.push(time);
    } else if let Some(place) = times.get_mut(turn % TIMES) {
        *place = time;
    }
}

impl Known {
    fn of(front: &mut XenFront, address: Sbdf) -> Result<Self, String> {
        let mut read = |offset| ask(front, &Request::conf_read(address, offset, 4));
        let (ids, bar) = (read(0)?, read(BAR)?);
        let mut known = Self { address, ids, bar, mask: 0 };
        known.mask = known.size(front)?;
        Ok(known)
    }

    /// Writes ones and puts back what was there.
    fn size(&self, front: &mut XenFront) -> Result<u32, String> {
        ask(front, &Request::conf_write(self.address, BAR, 4, u32::MAX))?;
        let mask = ask(front, &Request::conf_read(self.address, BAR, 4))?;
        ask(front, &Request::conf_write(self.address, BAR, 4, self.bar))?;
        Ok(mask)
    }

    fn wrong_answers(&self, front: &mut XenFront) -> u32 {
        let mask = self.size(front);
        let bar = ask(front, &Request::conf_read(self.address, BAR, 4));
        u32::from(mask != Ok(self.mask)) + u32::from(bar != Ok(self.bar))
    }
}
