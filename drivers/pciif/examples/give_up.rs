//! A frontend whose backend is slow: Linux's waits for two seconds, takes the flag back and asks something else. A backend that answers late
//! must not answer the new request with the old one's value.
#![allow(clippy::expect_used, reason = "an example has nothing to fall back on")]

use pciif::{BackendPage, FrontendPage, OwnedPage, Reply, Request};

fn main() {
    let page = OwnedPage::new();
    let (front, back) = (FrontendPage::new(&page), BackendPage::new(&page));
    let device = "0000:00:05.0".parse().expect("an address");

    front.publish(&Request::conf_read(device, 0, 4));
    let slow = back.take_request().expect("a request");
    assert!(front.cancel(), "the backend had not answered");

    front.publish(&Request::conf_read(device, 8, 4));
    assert!(!back.still_carries(&slow), "so this answer is dropped");

    let request = back.take_request().expect("the new request");
    assert!(back.still_carries(&request));
    back.reply(&request, Reply::success(0x0200_0000));
    println!("{request}: {:#x}", front.response().expect("an answer").value);
}
