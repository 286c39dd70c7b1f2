//! Checks of the tree itself, for `make lint`: references that lead nowhere, manifests without the workspace's lints, files that import
//! each other in a circle, dependencies that are not used or have another licence than ours allows, a broker that grows, advisories without a test, `unsafe`
//! without a reason. Run from the repository's root; prints one line for each offence and fails if there is any. With the argument `broker` it says how large
//! the broker is, with `unsafe` it lists all of that, and does nothing else.

mod advisories;
mod broker;
mod circles;
mod dependencies;
mod files;
mod imports;
mod manifests;
mod references;
mod unsafe_code;

use std::{path::Path, process::ExitCode};

use anyhow::Result;

fn main() -> ExitCode {
    let root = Path::new(".");
    let described = match std::env::args().nth(1).as_deref() {
        Some("broker") => Some(files::texts(root).and_then(|files| broker::describe(root, &files))),
        Some("unsafe") => Some(files::texts(root).map(|files| unsafe_code::describe(&files))),
        _ => None,
    };
    match described {
        Some(Ok(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Some(Err(error)) => {
            eprintln!("tree: {error:#}");
            return ExitCode::FAILURE;
        }
        None => {}
    }
    match check(root) {
        Ok(offences) if offences.is_empty() => ExitCode::SUCCESS,
        Ok(offences) => {
            offences.iter().for_each(|offence| eprintln!("{offence}"));
            eprintln!("tree: {} offences", offences.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tree: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every offence in the tree below `root`.
fn check(root: &Path) -> Result<Vec<String>> {
    let files = files::texts(root)?;
    let mut offences = references::check(&files);
    offences.extend(manifests::check(&files));
    offences.extend(circles::check(&files)?);
    offences.extend(advisories::check(&files));
    offences.extend(unsafe_code::check(&files));
    offences.extend(broker::check(root, &files)?);
    offences.extend(dependencies::check(root, &files)?);
    Ok(offences)
}
