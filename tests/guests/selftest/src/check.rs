//! How a case says that something is not as it should be.

use alloc::string::String;

/// Result of a case: the text tells what was found instead.
pub(crate) type Outcome = Result<(), String>;

/// Ends the case with a text unless the condition holds.
macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(alloc::format!("{}:{}: {}", file!(), line!(), format_args!($($text)+)));
        }
    };
}

/// Ends the case unless both sides are equal, telling both.
macro_rules! check_eq {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => $crate::check::check!(left == right, "{} is {left:?}, want {right:?}", stringify!($left)),
        }
    };
}

/// The value of a result that should be Ok; ends the case otherwise.
macro_rules! ok {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Err(alloc::format!("{}:{}: {}: {error:?}", file!(), line!(), stringify!($result))),
        }
    };
}

pub(crate) use {check, check_eq, ok};
