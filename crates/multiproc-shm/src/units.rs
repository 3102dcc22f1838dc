//! Sizes in error messages: `64 MiB`, with the number of bytes where that is not exact.

use std::fmt;

/// A number of bytes. It prints as `256 MiB` if that is exact, as `1.5 GiB (1610612737 bytes)` if
/// not, and as `512 bytes` below a KiB.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl Size {
    /// Returns the size of this number of bytes.
    pub fn of(bytes: usize) -> Size {
        Size(bytes as u64)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let bytes = self.0;
        let exponent = bytes.checked_ilog2().unwrap_or(0) as usize / 10;
        let Some(unit) = exponent.checked_sub(1).map(|index| UNITS[index]) else {
            return write!(f, "{bytes} {}", if bytes == 1 { "byte" } else { "bytes" });
        };
        let scale = 1_u64 << (10 * exponent);
        // Round down to tenths: for a limit, a smaller number is the safer one.
        match (bytes / scale, u128::from(bytes % scale) * 10 / u128::from(scale), bytes % scale) {
            (whole, _, 0) => write!(f, "{whole} {unit}"),
            (whole, tenths, rest) if u128::from(rest) * 10 == tenths * u128::from(scale) => {
                write!(f, "{whole}.{tenths} {unit}")
            }
            (whole, tenths, _) => write!(f, "{whole}.{tenths} {unit} ({bytes} bytes)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1025, "1.0 KiB (1025 bytes)"),
            (64 << 20, "64 MiB"),
            (256 << 20, "256 MiB"),
            ((3 << 29) + 1, "1.5 GiB (1610612737 bytes)"),
            (u64::MAX, "15.9 EiB (18446744073709551615 bytes)"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
