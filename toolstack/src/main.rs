//! See the library: `pcidom::main`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pcidom::main()
}
