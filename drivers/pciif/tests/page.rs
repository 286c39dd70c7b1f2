//! The two ends of a page against each other and against the bytes of docs/protocol.md §8.4.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::thread;

use pciif::layout::MsixEntry;
use pciif::{
    AerNotification, BackendPage, ChannelState, Command, ErrorCode, ErrorResult, Flags, FrontendPage, OwnedPage, Reply,
    Request,
};
use proptest::prelude::*;
use xen_types::Sbdf;

const DEVICE: Sbdf = Sbdf::from_devfn(0, 0, 0);

/// Byte `offset` of a page, as the vectors of the specification give them.
fn bytes<const N: usize>(page: &OwnedPage, offset: usize) -> [u8; N] {
    core::array::from_fn(|index| {
        let at = offset + index;
        page.word(at & !3).expect("inside the page").to_le_bytes()[at % 4]
    })
}

fn both(page: &OwnedPage) -> (FrontendPage<&OwnedPage>, BackendPage<&OwnedPage>) {
    (FrontendPage::new(page), BackendPage::new(page))
}

#[test]
fn a_read_looks_on_the_wire_as_specified() {
    let page = OwnedPage::new();
    let (frontend, backend) = both(&page);
    frontend.announce_aer();
    frontend.publish(&Request::conf_read(DEVICE, 0, 4));
    assert_eq!(bytes(&page, 0), [3, 0, 0, 0]);
    assert_eq!(bytes(&page, 4), [0, 0, 0, 0]);
    assert_eq!(bytes(&page, 12), [0; 12]);
    assert_eq!(bytes(&page, 24), [0, 0, 0, 0]);
    assert_eq!(bytes(&page, 28), [4, 0, 0, 0]);

    let request = backend.take_request().expect("published");
    backend.reply(&request, Reply::success(0x1533_8086));
    assert_eq!(bytes(&page, 8), [0, 0, 0, 0]);
    assert_eq!(bytes(&page, 32), [0x86, 0x80, 0x33, 0x15]);
    assert_eq!(bytes(&page, 0), [2, 0, 0, 0]);
}

#[test]
fn a_question_looks_on_the_wire_as_specified() {
    let page = OwnedPage::new();
    let (frontend, backend) = both(&page);
    let address = Sbdf::from_devfn(0, 0, 0x11);
    assert_eq!(backend.tell_gone(address), AerNotification::Deaf);
    assert_eq!((bytes(&page, 0), bytes(&page, 552)), ([0; 4], [0; 20]), "nothing is written for who does not listen");
    frontend.announce_aer();
    frontend.publish(&Request::conf_read(DEVICE, 0, 4));
    assert_eq!(backend.tell_gone(address), AerNotification::Sent);
    assert_eq!(bytes(&page, 552), [6, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0]);
    assert_eq!(bytes(&page, 0), [7, 0, 0, 0], "and the request that is there stays");
    assert_eq!(bytes(&page, 572), [0; 4]);
    assert_eq!(backend.tell_gone(DEVICE), AerNotification::Busy);
    assert_eq!(frontend.question(), Some([6, ChannelState::PermanentFailure as u32, 0, 0, 0x11]));
    assert_eq!(backend.error_result(), None);
    frontend.answer(4);
    assert_eq!(backend.error_result(), Some(4));
    assert_eq!(ErrorResult::from_raw(4), Some(ErrorResult::Disconnect));
    assert_eq!((frontend.question(), bytes(&page, 0)), (None, [3, 0, 0, 0]));
    assert_eq!(backend.tell_gone(DEVICE), AerNotification::Sent);
}

#[test]
fn error_codes_look_on_the_wire_as_specified() {
    for (code, want) in [
        (ErrorCode::DevNotFound, 0xff),
        (ErrorCode::InvalidOffset, 0xfe),
        (ErrorCode::AccessDenied, 0xfd),
        (ErrorCode::NotImplemented, 0xfc),
        (ErrorCode::OpFailed, 0xfb),
    ] {
        let page = OwnedPage::new();
        let (frontend, backend) = both(&page);
        frontend.publish(&Request::conf_read(DEVICE, 0, 3));
        let request = backend.take_request().expect("published");
        backend.reply(&request, Reply::error(code, 0));
        assert_eq!(bytes(&page, 8), [want, 0xff, 0xff, 0xff]);
        assert_eq!(frontend.response().and_then(|response| response.code()), Some(code));
    }
}

#[test]
fn msix_entries_look_on_the_wire_as_specified() {
    let page = OwnedPage::new();
    let (frontend, backend) = both(&page);
    let request = Request { value: 2, ..Request::new(Command::EnableMsix, DEVICE) };
    let entries = [MsixEntry { vector: 0xffff, entry: 0 }, MsixEntry { vector: 0xffff, entry: 1 }];
    frontend.publish_with_entries(&request, &entries);
    assert_eq!(bytes(&page, 40), [0xff, 0xff, 0, 0, 0xff, 0xff, 1, 0]);

    let taken = backend.take_request().expect("published");
    assert_eq!(backend.take_entries(&taken).expect("two entries").as_slice(), entries);
    backend.reply(&taken, Reply { vectors: &[55, 54, 53], ..Reply::success(0) });
    assert_eq!(bytes(&page, 40), [0x37, 0, 0, 0, 0x36, 0, 1, 0]);
    assert_eq!(bytes(&page, 48), [0; 4], "an entry that the request did not count");
    assert_eq!(frontend.entry(1), Some(MsixEntry { vector: 54, entry: 1 }));
}

#[test]
fn entries_are_taken_only_as_far_as_they_exist() {
    let page = OwnedPage::filled(0x0101_0101);
    let backend = BackendPage::new(&page);
    let request = |command, value| Request { value, ..Request::new(command, DEVICE) };
    for value in [129, 1 << 31, u32::MAX] {
        assert!(backend.take_entries(&request(Command::EnableMsix, value)).is_none());
    }
    assert!(backend.take_entries(&request(Command::ConfRead, 1)).is_none());
    let all = backend.take_entries(&request(Command::EnableMsix, 128)).expect("128 fit");
    assert_eq!(all.as_slice(), [MsixEntry { vector: 0x101, entry: 0x101 }; 128]);
    assert!(backend.take_entries(&request(Command::EnableMsix, 0)).expect("none").as_slice().is_empty());
}

#[test]
fn a_reply_writes_nothing_but_err_value_and_the_flag() {
    let page = OwnedPage::filled(0xa5a5_a5a5);
    let (frontend, backend) = both(&page);
    let request = Request::conf_write(DEVICE, 0x10, 4, 7);
    frontend.publish(&request);
    let before: Vec<_> = (0..4096).step_by(4).map(|offset| page.word(offset)).collect();
    backend.reply(&request, Reply { vectors: &[1, 2], ..Reply::error(ErrorCode::AccessDenied, 9) });
    let changed: Vec<_> = (0..4096).step_by(4).filter(|offset| page.word(*offset) != before[offset / 4]).collect();
    assert_eq!(changed, [0, 8, 32]);
    assert_eq!(page.word(0), Some(0xa5a5_a5a5 & !1), "the other bits of the flags are the frontend's");
}

#[test]
fn scribbling_after_the_copy_changes_nothing() {
    let page = OwnedPage::new();
    let (frontend, backend) = both(&page);
    let published = Request::conf_write(DEVICE, 0x10, 4, 0xffff_ffff);
    frontend.publish(&published);
    let request = backend.take_request().expect("published");
    for offset in (4..572).step_by(4) {
        page.set_word(offset, 0xdead_beef);
    }
    assert_eq!(request, published);
    assert!(!backend.still_carries(&request));
}

#[test]
fn a_request_that_the_frontend_gave_up_is_not_carried_any_more() {
    let page = OwnedPage::new();
    let (frontend, backend) = both(&page);
    let first = Request::conf_write(DEVICE, 0x10, 4, 1);
    frontend.publish(&first);
    assert!(backend.still_carries(&first));
    assert!(frontend.cancel());
    assert!(!backend.still_carries(&first));
    let second = Request { value: 2, ..first };
    frontend.publish(&second);
    assert!(!backend.still_carries(&first));
    assert!(backend.still_carries(&second));
    backend.reply(&second, Reply::success(0));
    assert!(!frontend.cancel(), "answered");
}

#[test]
fn without_the_flag_there_is_no_request() {
    let page = OwnedPage::filled(!Flags::ACTIVE.bits());
    let backend = BackendPage::new(&page);
    assert_eq!(backend.take_request(), None);
    assert_eq!(backend.flags(), Flags::AER_HANDLER | Flags::BACKEND_ACTIVE, "unknown bits are dropped");
}

#[test]
fn requests_print_for_the_log() {
    let address = Sbdf::from_devfn(0, 1, 0x0a);
    assert_eq!(Request::conf_read(address, -4, 2).to_string(), "conf_read 0000:01:01.2 offset 0xfffffffc size 2");
    assert_eq!(
        Request::conf_write(address, 16, 4, 5).to_string(),
        "conf_write 0000:01:01.2 offset 0x10 size 4 value 0x5"
    );
    let odd = Request { cmd: 77, devfn: 0x100, ..Request::conf_read(address, 0, 4) };
    assert_eq!(odd.to_string(), "command 77 0000:01 devfn 0x100");
}

#[test]
fn answers_and_requests_are_never_torn_between_two_processors() {
    const ROUNDS: u32 = 20_000;
    let page = Arc::new(OwnedPage::new());
    let frontend = FrontendPage::new(Arc::clone(&page));
    let server = thread::spawn(move || {
        let backend = BackendPage::new(page);
        for _ in 0..ROUNDS {
            let request = loop {
                match backend.take_request() {
                    Some(request) => break request,
                    None => thread::yield_now(),
                }
            };
            assert_eq!([request.domain, request.bus, request.devfn, request.info], [request.value; 4]);
            backend.reply(&request, Reply::success(!request.value));
        }
    });
    for round in 0..ROUNDS {
        let request = Request {
            domain: round,
            bus: round,
            devfn: round,
            info: round,
            ..Request::conf_write(DEVICE, 0, 4, round)
        };
        frontend.publish(&request);
        let response = loop {
            match frontend.response() {
                Some(response) => break response,
                None => thread::yield_now(),
            }
        };
        assert_eq!(response.value, !round);
    }
    server.join().expect("no torn request");
}

proptest! {
    #[test]
    fn a_request_comes_out_as_it_went_in(
        words in prop::array::uniform8(any::<u32>()),
        filler in any::<u32>(),
        err in prop::sample::select(&ErrorCode::ALL[..]),
        value in any::<u32>(),
    ) {
        let [cmd, domain, bus, devfn, offset, size, in_value, info] = words;
        let request = Request {
            cmd, domain, bus, devfn,
            offset: offset.cast_signed(), size: size.cast_signed(),
            value: in_value, info,
        };
        let page = OwnedPage::filled(filler);
        let (frontend, backend) = both(&page);
        frontend.publish(&request);
        prop_assert_eq!(frontend.response(), None);
        prop_assert_eq!(backend.take_request(), Some(request));
        backend.reply(&request, Reply::error(err, value));
        let response = frontend.response().expect("answered");
        prop_assert_eq!((response.err, response.value), (err.raw(), value));
        prop_assert!(!backend.is_active());
    }

    #[test]
    fn the_numbers_of_commands_and_errors_read_back(number in any::<u32>()) {
        prop_assert_eq!(Command::from_raw(number).map(Command::raw), (number <= 10).then_some(number));
        let code = number.cast_signed();
        prop_assert_eq!(ErrorCode::from_raw(code).map(ErrorCode::raw), (-5..=0).contains(&code).then_some(code));
    }
}

#[test]
fn an_answer_may_have_a_word_more() {
    let page = OwnedPage::new();
    let (front, back) = (FrontendPage::new(&page), BackendPage::new(&page));
    // A command that the header does not know, for peers that do.
    let request = Request { cmd: 0x101, ..Request::new(Command::ConfWrite, DEVICE) };
    front.publish(&request);
    let taken = back.take_request().unwrap();
    assert_eq!((taken.cmd, taken.command()), (0x101, None));
    back.reply_with_info(&taken, Reply::success(2), 7);
    assert_eq!(front.response().map(|response| (response.err, response.value, front.info())), Some((0, 2, 7)));
}
