//! A backend that serves configuration reads of one function and answers everything else as a real one must, with a frontend beside it.
//!
//! Between real domains the page is granted by the frontend, and every `publish` and `reply` is followed by a notification.
#![allow(clippy::expect_used, reason = "an example has nothing to fall back on")]

use pciif::layout::MsixEntry;
use pciif::{BackendPage, Command, ErrorCode, FrontendPage, OwnedPage, Reply, Request, SharedPage};

/// The first 16 bytes of the function's configuration space: vendor and device, command and status, class, header.
const CONFIG: [u32; 4] = [0x10d3_8086, 0x0010_0000, 0x0200_0000, 0];

/// Answers the request in the page, if there is one.
fn serve<P: SharedPage>(page: &BackendPage<P>) {
    // A private copy: what the frontend writes into the page from now on changes nothing.
    let Some(request) = page.take_request() else { return };
    println!("backend: {request}");
    let (offset, size) = (request.offset, request.size);
    match request.command() {
        Some(Command::ConfRead) if !(0..4096).contains(&offset) || !matches!(size, 1 | 2 | 4) || offset % size != 0 => {
            page.reply(&request, Reply::error(ErrorCode::InvalidOffset, 0));
        }
        Some(Command::ConfRead) => {
            let word = usize::try_from(offset / 4).ok().and_then(|index| CONFIG.get(index)).copied().unwrap_or(0);
            let value = word >> (8 * (offset % 4)) & (u32::MAX >> (32 - 8 * size));
            page.reply(&request, Reply::success(value));
        }
        Some(Command::EnableMsix) => match page.take_entries(&request) {
            // A real backend has Xen map them, and answers with the pirqs.
            Some(entries) => {
                let pirqs: Vec<u16> = (54..).take(entries.as_slice().len()).collect();
                page.reply(&request, Reply { err: ErrorCode::Success, value: 0, vectors: &pirqs });
            }
            None => page.reply(&request, Reply::error(ErrorCode::OpFailed, 0)),
        },
        _ => page.reply(&request, Reply::error(ErrorCode::NotImplemented, 0)),
    }
}

fn main() {
    let page = OwnedPage::new();
    let (front, back) = (FrontendPage::new(&page), BackendPage::new(&page));
    let device = "0000:00:05.0".parse().expect("an address");

    let ask = |request: &Request| {
        front.publish(request);
        serve(&back);
        front.response().expect("the backend has answered")
    };
    assert_eq!(ask(&Request::conf_read(device, 2, 2)).value, 0x10d3);
    assert_eq!(ask(&Request::conf_read(device, 1, 2)).code(), Some(ErrorCode::InvalidOffset));
    assert_eq!(ask(&Request::new(Command::AerMmio, device)).code(), Some(ErrorCode::NotImplemented));

    let entries = [0, 1].map(|entry| MsixEntry { vector: 0xffff, entry });
    front.publish_with_entries(&Request { value: 2, ..Request::new(Command::EnableMsix, device) }, &entries);
    serve(&back);
    assert_eq!(front.entry(1).map(|entry| (entry.entry, entry.vector)), Some((1, 55)));
    println!("frontend: MSI-X entry 1 is pirq 55");
}
