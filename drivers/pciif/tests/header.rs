//! Compares our layout with Xen's own header, field by field: the C compiler does the comparing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use core::mem::{offset_of, size_of};
use std::io::Write;
use std::process::{Command as Process, Stdio};

use pciif::layout::{AerOp, MAX_VECTORS, MsixEntry, Op, SharedInfo};
use pciif::{Command, ErrorCode, Flags};

/// Runs the C compiler over `source` without producing anything, and returns what it complained about.
fn compile(source: &str) -> Result<(), String> {
    let mut compiler = Process::new("cc")
        .args(["-x", "c", "-std=c11", "-fsyntax-only", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`cc` is needed to compare with Xen's header: install gcc");
    compiler.stdin.take().expect("stdin is a pipe").write_all(source.as_bytes()).expect("cc reads its input");
    let output = compiler.wait_with_output().expect("cc ends");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

const INCLUDE: &str = "#include <stddef.h>\n#include <stdint.h>\n#include <xen/io/pciif.h>\n";

fn assert_header_says(assertions: &[String]) {
    if let Err(message) = compile(INCLUDE) {
        panic!("Xen's header xen/io/pciif.h is needed for this test: install libxen-dev\n{message}");
    }
    let source = assertions
        .iter()
        .fold(String::from(INCLUDE), |source, line| source + &format!("_Static_assert({line}, \"differs\");\n"));
    compile(&source).expect("Xen's header agrees with our layout");
}

macro_rules! fields {
    ($c:literal, $rust:ty, $($field:ident),+) => {{
        let mut lines = vec![format!("sizeof(struct {}) == {}", $c, size_of::<$rust>())];
        $(
            lines.push(format!("offsetof(struct {}, {}) == {}", $c, stringify!($field), offset_of!($rust, $field)));
            lines.push(format!("sizeof(((struct {} *)0)->{}) == {}", $c, stringify!($field), size_of_field(|value: &$rust| &raw const value.$field)));
        )+
        lines
    }};
}

fn size_of_field<T, F>(_: fn(&T) -> *const F) -> usize {
    size_of::<F>()
}

#[test]
fn every_field_is_where_xen_has_it() {
    let mut lines = fields!("xen_msix_entry", MsixEntry, vector, entry);
    lines.extend(fields!("xen_pci_op", Op, cmd, err, domain, bus, devfn, offset, size, value, info, msix_entries));
    lines.extend(fields!("xen_pcie_aer_op", AerOp, cmd, err, domain, bus, devfn));
    lines.extend(fields!("xen_pci_sharedinfo", SharedInfo, flags, op, aer_op));
    lines.push(format!("SH_INFO_MAX_VEC == {MAX_VECTORS}"));
    for field in ["err", "offset", "size"] {
        lines.push(format!("(__typeof__(((struct xen_pci_op *)0)->{field}))-1 < 0"));
    }
    assert_header_says(&lines);
}

#[test]
fn every_number_is_xens() {
    let mut lines = vec![
        format!("XEN_PCIF_active == {}", Flags::ACTIVE.bits()),
        format!("XEN_PCIB_AERHANDLER == {}", Flags::AER_HANDLER.bits()),
        format!("XEN_PCIB_active == {}", Flags::BACKEND_ACTIVE.bits()),
        format!("__builtin_strcmp(XEN_PCI_MAGIC, \"{}\") == 0", pciif::MAGIC),
    ];
    lines.extend(Command::ALL.map(|command| format!("XEN_PCI_OP_{command} == {}", command.raw())));
    lines.extend(ErrorCode::ALL.map(|code| format!("XEN_PCI_ERR_{code} == {}", code.raw())));
    assert_header_says(&lines);
}

#[test]
fn a_wrong_offset_would_be_noticed() {
    let source = format!("{INCLUDE}_Static_assert(offsetof(struct xen_pci_op, value) == 24, \"differs\");\n");
    assert!(compile(&source).expect_err("24 is where size is").contains("differs"));
}
