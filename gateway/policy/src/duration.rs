//! Durations as Gateway API writes them (GEP-2257): `10s`, `1h30m`, `500ms`. The one parser for every field of that type.

use std::time::Duration;

/// A text that is no Gateway API duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a duration: write one to four numbers of at most five digits, each with h, m, s or ms, as in `1h30m`, `10s` or `500ms`"
)]
pub struct InvalidDuration(String);

/// Parses `([0-9]{1,5}(h|m|s|ms)){1,4}`. Units may come in any order, as in Gateway API.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.into());
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        parts += 1;
        if !(1..=5).contains(&digits) || parts > 4 {
            return Err(invalid());
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let (unit, tail) = if let Some(tail) = tail.strip_prefix("ms") {
            (Duration::from_millis(number), tail)
        } else if let Some(tail) = tail.strip_prefix('h') {
            (Duration::from_secs(number * 3600), tail)
        } else if let Some(tail) = tail.strip_prefix('m') {
            (Duration::from_secs(number * 60), tail)
        } else if let Some(tail) = tail.strip_prefix('s') {
            (Duration::from_secs(number), tail)
        } else {
            return Err(invalid());
        };
        total += unit;
        rest = tail;
    }
    if parts == 0 { Err(invalid()) } else { Ok(total) }
}

/// Writes it back in the same form, largest unit first: `1h30m`, `500ms`, `0s`. Parts of a millisecond are cut off.
pub fn format(duration: Duration) -> String {
    let millis = duration.as_millis();
    let parts = [(millis / 3_600_000, "h"), (millis / 60_000 % 60, "m"), (millis / 1_000 % 60, "s"), (millis % 1_000, "ms")];
    let text: String = parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect();
    if text.is_empty() { "0s".into() } else { text }
}

/// Whole seconds, rounded up.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_as_gateway_api_writes_them() {
        for (text, millis) in [
            ("0s", 0),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1h0m0s1ms", 3_600_001),
            ("1m", 60_000),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "1d", "100000s", "1h1h1h1h1h", " 1s", "1s ", "1us", "1S", "٣s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_prints_as_it_was_read() {
        for text in ["0s", "10s", "1h30m", "500ms", "1h1ms"] {
            assert_eq!(parse(text).map(format).as_deref(), Ok(text));
        }
    }
}
