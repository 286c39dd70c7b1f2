//! Parses numbers as frontends and toolstacks write them. Accepted besides digits:
//! blanks in front (as `scanf` skips them) and one newline or NUL behind, nothing else.

use thiserror::Error;

/// The text is not a number of the wanted size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NumberError {
    /// No digits, or something besides digits.
    #[error("not a number")]
    Malformed,
    /// A number, but too big.
    #[error("number too big")]
    Overflow,
}

/// Reads an unsigned decimal number: a grant reference, a port, a domain id, a count.
///
/// # Errors
/// Anything but digits, a sign included, or a value over 32 bits.
pub fn decimal(text: impl AsRef<[u8]>) -> Result<u32, NumberError> {
    let value = digits(trim(text.as_ref()), 10)?;
    u32::try_from(value).map_err(|_| NumberError::Overflow)
}

/// Reads an unsigned hexadecimal number, with or without `0x` in front: a frame or an address.
///
/// # Errors
/// Anything but digits, or a value over 64 bits.
pub fn hexadecimal(text: impl AsRef<[u8]>) -> Result<u64, NumberError> {
    let text = trim(text.as_ref());
    let text = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")).unwrap_or(text);
    digits(text, 16)
}

fn trim(text: &[u8]) -> &[u8] {
    let text = strip_one_end(text);
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    text.get(blanks..).unwrap_or_default()
}

pub(crate) fn strip_one_end(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).or_else(|| value.strip_suffix(b"\n")).unwrap_or(value)
}

fn digits(text: &[u8], radix: u32) -> Result<u64, NumberError> {
    if text.is_empty() {
        return Err(NumberError::Malformed);
    }
    let mut value = Ok(0_u64);
    for byte in text {
        let digit = char::from(*byte).to_digit(radix).ok_or(NumberError::Malformed)?;
        // Goes on behind an overflow, so that garbage is reported as garbage however long it is.
        value = value.and_then(|value| {
            let scaled = value.checked_mul(u64::from(radix)).ok_or(NumberError::Overflow)?;
            scaled.checked_add(u64::from(digit)).ok_or(NumberError::Overflow)
        });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_takes_what_scanf_takes_and_one_end_mark() {
        for text in ["17", "017", " 17", "\t\n 17", "17\n", "17\0", " 0000000000000000000000000000017\0"] {
            assert_eq!(decimal(text), Ok(17), "{text:?}");
        }
        assert_eq!(decimal("0"), Ok(0));
        assert_eq!(decimal("4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn decimal_refuses_everything_else() {
        for text in
            ["", " ", "\n", "\0", "+1", "-1", "1 ", "1 2", "17\n\n", "17\0\0", "17\n\0", "0x11", "1a", "1\x002", "١"]
        {
            assert_eq!(decimal(text), Err(NumberError::Malformed), "{text:?}");
        }
        for text in ["4294967296", "18446744073709551616", "99999999999999999999999999999999"] {
            assert_eq!(decimal(text), Err(NumberError::Overflow), "{text:?}");
        }
        assert_eq!(decimal("99999999999999999999999999999999x"), Err(NumberError::Malformed));
        assert_eq!(decimal([0xff, 0xfe]), Err(NumberError::Malformed));
    }

    #[test]
    fn hexadecimal_has_an_optional_prefix_and_64_bits() {
        for text in ["b0028", "0xb0028", "0XB0028", " 0xB0028\n"] {
            assert_eq!(hexadecimal(text), Ok(0xb0028), "{text:?}");
        }
        assert_eq!(hexadecimal("0xffffffffffffffff"), Ok(u64::MAX));
        assert_eq!(hexadecimal("10000000000000000"), Err(NumberError::Overflow));
        for text in ["", "0x", "0x0x1", "-1", "x1", "g"] {
            assert_eq!(hexadecimal(text), Err(NumberError::Malformed), "{text:?}");
        }
    }
}
