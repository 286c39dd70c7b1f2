//! Kernel stacks of dom0's processes, logged after a failed case.

use std::fs;

/// Prints each program's name and where in the kernel its threads are.
pub(crate) fn print() {
    let numbers = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()?.parse::<u32>().ok()).collect::<Vec<_>>()
    };
    let text = |path: String| fs::read_to_string(path).unwrap_or_default();
    for process in numbers("/proc") {
        let command = text(format!("/proc/{process}/cmdline")).replace('\0', " ");
        // The kernel's own threads have none.
        if command.is_empty() {
            continue;
        }
        println!("agent: {process}: {}", command.trim_end());
        for thread in numbers(&format!("/proc/{process}/task")) {
            let stack = text(format!("/proc/{process}/task/{thread}/stack"));
            let frames: Vec<&str> = stack.lines().filter_map(|line| line.split_whitespace().nth(1)).take(6).collect();
            println!("agent:   {thread}: {}", frames.join(" < "));
        }
    }
}
