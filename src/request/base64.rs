//! Base64 (RFC 4648, section 4), for managers whose annotations cannot carry the request itself.
#![forbid(unsafe_code)]

use crate::error::{Cause, Error, Result};

/// Decodes text; padding may be left out.
///
/// # Errors
/// [`Cause::RequestInvalid`] for other characters, an impossible length, or what is not UTF-8.
pub fn decode(text: &str) -> Result<String> {
    let wrong = |what: &str| Error::new(Cause::RequestInvalid, format!("io.fs-isolator.volumes.base64 {what}"));
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return Err(wrong("has an impossible length"));
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(wrong("has a character that is not base64")),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    if bits != 0 {
        return Err(wrong("has stray bits at its end"));
    }
    String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_rfc_4648_lists() {
        for (encoded, plain) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmE", "fooba")]
        {
            assert_eq!(decode(encoded).unwrap(), plain);
        }
    }

    #[test]
    fn refuses_what_is_not_base64() {
        for bad in ["Z", "Zg===", "Z g=", "Zh", "Zm9v!", "/w==", "Z=g="] {
            assert_eq!(decode(bad).unwrap_err().cause(), Cause::RequestInvalid, "{bad:?}");
        }
    }
}
