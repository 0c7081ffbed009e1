// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes as people write them.

/// Bytes in `text`: `4096`, `64K`, `512M`, `1G`, `1GiB`.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_end_matches("iB") {
        "" if unit.is_empty() => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("\"{unit}\" is no unit: use K, M, G or T")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a size starts with a number".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "that is more than 2^64 bytes".to_owned())
}

/// A device id as people write it: hexadecimal, with or without `0x`.
pub fn parse_hex(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u16::from_str_radix(digits, 16)
        .map_err(|_| "a hexadecimal number of 16 bits, such as e211".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("64K"), Ok(64 << 10));
        assert_eq!(parse("512MiB"), Ok(512 << 20));
        assert_eq!(parse("1G"), Ok(1 << 30));
        for bad in ["", "G", "1X", "1iB", "-1", "99999999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn device_ids_are_hexadecimal() {
        assert_eq!(parse_hex("e211"), Ok(0xe211));
        assert_eq!(parse_hex("0xE20B"), Ok(0xe20b));
        assert!(parse_hex("10000").is_err());
    }
}
