//! Names of header fields that only proxies write: no message from outside and no filter of a route may say them.

/// Whether a request's field (lower-case) is one only proxies write: those beginning `selvage-`, and the forwarding headers, which tell the
/// next proxy who called. Some servers read `_` as `-`, so that is no disguise.
pub fn is_ours(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b's') => is_platforms(name),
        Some(b'x') => begins(name, "x-forwarded-") || (name.len() == 9 && begins(name, "x-real-ip")),
        Some(b'f') => name == "forwarded",
        _ => false,
    }
}

/// Whether it begins `selvage-`: in either direction those are ours alone.
pub fn is_platforms(name: &str) -> bool {
    begins(name, "selvage-")
}

fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(|(a, b)| if a == b'_' { b == b'-' } else { a == b })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_known_in_every_spelling_and_others_are_not() {
        for (name, ours, platforms) in [
            ("selvage-principal", true, true),
            ("selvage_attempt", true, true),
            ("x-forwarded-for", true, false),
            ("x_forwarded_proto", true, false),
            ("x-forwarded_host", true, false),
            ("x-real-ip", true, false),
            ("x_real_ip", true, false),
            ("forwarded", true, false),
            ("selvage", false, false),
            ("x-forwarded", false, false),
            ("x-real-ips", false, false),
            ("forwarded-by", false, false),
            ("x-request-id", false, false),
        ] {
            assert_eq!((is_ours(name), is_platforms(name)), (ours, platforms), "{name}");
        }
    }
}
