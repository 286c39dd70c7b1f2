//! Two sides of a page at once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::mem::offset_of;

use loom::sync::{Arc, Notify};
use loom::thread;
use orders::layout::{MsixEntry, SharedInfo};
use orders::{AerNotification, BackendPage, ChannelState, Command, ErrorCode, FrontendPage, Page, Reply, Request};
use xen_types::Sbdf;

const DEVICE: Sbdf = Sbdf::from_devfn(0, 1, 0x28);
const OTHER: Sbdf = Sbdf::from_devfn(7, 2, 0x31);

/// Plays all orders in which a side is interrupted twice at most.
fn in_all_orders(play: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(play);
}

fn ends() -> (FrontendPage<Arc<Page>>, BackendPage<Arc<Page>>, Arc<Page>) {
    let page = Arc::new(Page::new());
    (FrontendPage::new(Arc::clone(&page)), BackendPage::new(Arc::clone(&page)), page)
}

fn vectors() -> (Request, [MsixEntry; 2]) {
    let request = Request { value: 2, ..Request::new(Command::EnableMsix, DEVICE) };
    (request, [3, 5].map(|entry| MsixEntry { vector: 0xffff, entry }))
}

#[test]
fn who_sees_the_flag_sees_the_whole_request_and_who_sees_it_gone_the_whole_answer() {
    in_all_orders(|| {
        let (front, back, _) = ends();
        let (request, entries) = vectors();
        let backend = thread::spawn(move || {
            let Some(taken) = back.take_request() else { return };
            assert_eq!(taken, vectors().0);
            let copy = back.take_entries(&taken).expect("two");
            assert_eq!(copy.as_slice().iter().map(|entry| entry.entry).collect::<Vec<_>>(), [3, 5]);
            assert!(back.still_carries(&taken));
            back.reply(&taken, Reply { err: ErrorCode::Success, value: 0, vectors: &[40, 41] });
        });
        front.publish_with_entries(&request, &entries);
        if let Some(response) = front.response() {
            assert_eq!((response.err, response.value), (0, 0));
            assert_eq!([0, 1].map(|index| front.entry(index).map(|entry| entry.vector)), [Some(40), Some(41)]);
        }
        backend.join().unwrap();
    });
}

/// Its answer comes with an event, and so does the request: no order has a side sleep while the other one waits for it.
#[test]
fn a_backend_that_looks_again_after_each_event_misses_no_request() {
    in_all_orders(|| {
        let (front, back, _) = ends();
        let (to_back, to_front) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (asked, answered) = (Arc::clone(&to_back), Arc::clone(&to_front));
        let backend = thread::spawn(move || {
            let mut served = 0;
            while served < 2 {
                asked.wait();
                while let Some(request) = back.take_request() {
                    back.answer(ErrorCode::Success, request.offset.cast_unsigned() + 1);
                    answered.notify();
                    served += 1;
                }
            }
        });
        for offset in [0_u16, 4] {
            front.publish(&Request::conf_read(DEVICE, offset.into(), 4));
            to_back.notify();
            let response = loop {
                to_front.wait();
                if let Some(response) = front.response() {
                    break response;
                }
            };
            assert_eq!(response.value, u32::from(offset) + 1);
        }
        backend.join().unwrap();
    });
}

/// As Linux after two seconds. What the backend has copied may be of both requests, and is nothing else.
#[test]
fn a_request_that_replaces_another_gives_the_backend_words_of_these_two_only() {
    in_all_orders(|| {
        let (front, back, _) = ends();
        front.publish(&Request::conf_read(DEVICE, 4, 2));
        let backend = thread::spawn(move || {
            let Some(taken) = back.take_request() else { return };
            let of = |word: u32, words: [u32; 2]| assert!(words.contains(&word), "{word:x} {words:x?}");
            of(taken.offset.cast_unsigned(), [4, 0x40]);
            of(taken.cmd, [Command::ConfRead.raw(), Command::ConfWrite.raw()]);
        });
        front.cancel();
        front.publish(&Request::conf_write(DEVICE, 0x40, 2, 0));
        backend.join().unwrap();
    });
}

#[test]
fn what_a_guest_scribbles_changes_no_copy_that_was_taken() {
    in_all_orders(|| {
        let (front, back, page) = ends();
        let (request, entries) = vectors();
        front.publish_with_entries(&request, &entries);
        let guest = thread::spawn(move || {
            page.scribble(offset_of!(SharedInfo, op.value), u32::MAX);
            page.scribble(offset_of!(SharedInfo, op.cmd), Command::ConfWrite.raw());
        });
        let taken = back.take_request().expect("it is there");
        assert!([2, u32::MAX].contains(&taken.value));
        // As many as the copy counts, however often the page is changed: none where it is no such request, or counts too many.
        let copy = back.take_entries(&taken);
        let is_whole = (taken.value, taken.cmd) == (2, Command::EnableMsix.raw());
        assert_eq!(copy.map(|copy| copy.as_slice().len()), is_whole.then_some(2));
        guest.join().unwrap();
    });
}

/// Request and notification share a word: neither loses the other's bit.
#[test]
fn a_request_and_a_notification_of_an_error_go_both_ways_at_once() {
    in_all_orders(|| {
        let (front, back, _) = ends();
        front.announce_aer();
        let backend = thread::spawn(move || {
            let told = back.notify_error(OTHER, Command::AerDetected.raw(), ChannelState::Frozen as u32);
            assert_eq!(told, AerNotification::Sent);
            if back.take_request().is_some() {
                back.answer(ErrorCode::Success, 1);
            }
            back
        });
        front.publish(&Request::conf_read(DEVICE, 0, 4));
        let question = front.question();
        if let Some(question) = question {
            assert_eq!(question, [Command::AerDetected.raw(), ChannelState::Frozen as u32, 7, 2, 0x31]);
            front.answer(5);
        }
        let back = backend.join().unwrap();
        assert_eq!(back.error_result(), question.map(|_| 5));
        if back.is_active() {
            assert!(back.take_request().is_some());
            back.answer(ErrorCode::Success, 1);
        }
        assert_eq!(front.response().map(|response| response.value), Some(1));
    });
}

/// So that the others are worth something: a frontend that sets the flag first is found out.
#[test]
#[should_panic(expected = "assertion")]
fn a_flag_before_the_words_is_found() {
    in_all_orders(|| {
        let (front, back, page) = ends();
        let backend = thread::spawn(move || {
            if let Some(taken) = back.take_request() {
                assert_eq!(taken.devfn, 0x28);
            }
        });
        page.scribble(offset_of!(SharedInfo, flags), 1);
        front.publish(&Request::conf_read(DEVICE, 0, 4));
        backend.join().unwrap();
    });
}
