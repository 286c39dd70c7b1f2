//! The macros of `log`, without the place in the source.
//!
//! `log`'s own keep module, file and line of each call in the image, some 80 bytes for each, and the console shows none of them. These hand a level
//! and a text to the same logger.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt;

#[doc(hidden)]
pub use log::Level;

/// Hands a line to the logger, if it wants lines of this level.
#[cold]
#[inline(never)] // its callers are many
pub fn tell(level: Level, text: fmt::Arguments<'_>) {
    if level <= log::max_level() {
        log::logger().log(&log::Record::builder().level(level).args(text).build());
    }
}

/// A line at level Error.
#[macro_export]
macro_rules! error {
    ($($text:tt)+) => { $crate::tell($crate::Level::Error, ::core::format_args!($($text)+)) };
}

/// A line at level Warn.
#[macro_export]
macro_rules! warning {
    ($($text:tt)+) => { $crate::tell($crate::Level::Warn, ::core::format_args!($($text)+)) };
}

/// A line at level Info.
#[macro_export]
macro_rules! info {
    ($($text:tt)+) => { $crate::tell($crate::Level::Info, ::core::format_args!($($text)+)) };
}

/// A line at level Debug.
#[macro_export]
macro_rules! debug {
    ($($text:tt)+) => { $crate::tell($crate::Level::Debug, ::core::format_args!($($text)+)) };
}
