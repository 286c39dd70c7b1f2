//! Writing and reading a disk past the kernel's page cache, so that each byte goes through the device.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
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
