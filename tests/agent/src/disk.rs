//! Disk I/O that bypasses the page cache (O_DIRECT), so that each byte goes through the device.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::pattern::Pattern;

/// One transfer. The kernel wants buffers and sizes that are multiples of the disk's blocks.
#[repr(C, align(4096))]
struct Block([u8; 256 << 10]);

/// `disk-write FILE SEED MIB`: writes this much of the seed's data from the disk's start.
pub(crate) fn write(path: &str, seed: &str, mib: &str) -> Result<Vec<u8>> {
    let mut disk = open(path, OpenOptions::new().write(true))?;
    for_each_block(seed, mib, |pattern, block| {
        pattern.fill(block);
        Ok(disk.write_all(block)?)
    })?;
    disk.sync_all()?;
    Ok(Vec::new())
}

/// `disk-check FILE SEED MIB`: reads them back; fails at the first difference.
pub(crate) fn check(path: &str, seed: &str, mib: &str) -> Result<Vec<u8>> {
    let mut disk = open(path, OpenOptions::new().read(true))?;
    for_each_block(seed, mib, |pattern, block| {
        disk.read_exact(block)?;
        pattern.check(block)
    })?;
    Ok(Vec::new())
}

/// `disk-speed FILE MIB READS`: reads this much in a row, then so many single blocks of 4 KiB all over it; prints MiB and blocks a second.
pub(crate) fn speed(path: &str, mib: &str, reads: &str) -> Result<Vec<u8>> {
    const SMALL: usize = 4096;
    let (size, reads): (usize, u32) = (mib.parse::<usize>()? << 20, reads.parse()?);
    let mut disk = open(path, OpenOptions::new().read(true))?;
    let mut block = Box::new(Block([0; _]));
    let started = Instant::now();
    for _ in 0..size / size_of::<Block>() {
        disk.read_exact(&mut block.0)?;
    }
    let sequential = started.elapsed();
    let started = Instant::now();
    let mut place = 0;
    for _ in 0..reads {
        // A prime number of blocks on, so that each is far from the one before.
        place = (place + 2657) % (size / SMALL);
        disk.read_exact_at(&mut block.0[..SMALL], (place * SMALL) as u64)?;
    }
    let random = started.elapsed();
    let mib: f64 = mib.parse()?;
    Ok(format!("{:.3} {:.1}", mib / sequential.as_secs_f64(), f64::from(reads) / random.as_secs_f64()).into_bytes())
}

fn open(path: &str, options: &mut OpenOptions) -> Result<File> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
    options.custom_flags(direct).open(path).with_context(|| format!("opening {path}"))
}

fn for_each_block(seed: &str, mib: &str, mut work: impl FnMut(&mut Pattern, &mut [u8]) -> Result<()>) -> Result<()> {
    let (seed, mib): (u64, usize) = (seed.parse()?, mib.parse()?);
    let mut pattern = Pattern::new(seed);
    let mut block = Box::new(Block([0; _]));
    for _ in 0..(mib << 20) / size_of::<Block>() {
        work(&mut pattern, &mut block.0)?;
    }
    Ok(())
}
