//! Names of what is made for a Gateway, and the labels by which its proxies are known (GEP-1762).
//!
//! A Gateway's name may have 253 characters and dots; a Service's has 63 and none, a label's value 63. What does not fit is cut and
//! gets a part of its hash, so that two long names stay two.

use sha2::{Digest, Sha256};

/// On everything that belongs to a Gateway: its name, see [`label_value`].
pub const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// On everything that belongs to a Gateway: the name of its class, see [`label_value`].
pub const CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";

/// On everything that we make for a Gateway, and on nothing that another implementation makes.
pub const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";
/// What it says there.
pub const MANAGED: &str = "selvage";

/// A name of a Service (RFC 1035 label) and a label's value have no more characters.
const MOST: usize = 63;
/// Characters of the hash that a cut name ends in: 40 bits.
const HASHED: usize = 10;

/// The name of a Gateway's Deployment, Service, disruption budget and service account (which is its identity): `<gateway>-<class>`.
pub fn workload_name(gateway: &str, class: &str) -> String {
    let full = format!("{gateway}-{class}");
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = full.len() <= MOST && full.bytes().all(plain) && full.starts_with(|first: char| first.is_ascii_lowercase());
    if fits {
        return full;
    }
    let mut readable: String = full.chars().map(|one| if one.is_ascii() && plain(one as u8) { one } else { '-' }).collect();
    if !readable.starts_with(|first: char| first.is_ascii_lowercase()) {
        readable.insert(0, 'g');
    }
    cut(&readable, &full)
}

/// A name as a label's value: itself where it fits.
pub fn label_value(name: &str) -> String {
    if name.len() <= MOST { name.into() } else { cut(name, name) }
}

/// The beginning of `readable`, and a part of the hash of `full`.
fn cut(readable: &str, full: &str) -> String {
    let hash: String = Sha256::digest(full).iter().map(|byte| format!("{byte:02x}")).collect();
    let kept: String = readable.chars().take(MOST - HASHED - 1).collect();
    format!("{}-{}", kept.trim_end_matches(['-', '.', '_']), &hash[..HASHED])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_service_name(name: &str) -> bool {
        let ok = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-';
        (1..=63).contains(&name.len())
            && name.chars().all(ok)
            && name.starts_with(|one: char| one.is_ascii_lowercase())
            && !name.ends_with('-')
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        assert_eq!(workload_name("public", "selvage"), "public-selvage");
        assert_eq!(workload_name(&"a".repeat(55), "selvage"), format!("{}-selvage", "a".repeat(55)));
        assert_eq!(label_value("public"), "public");
        assert_eq!(label_value(&"a".repeat(63)), "a".repeat(63));
    }

    #[test]
    fn names_of_every_length_and_form_fit_a_service() {
        let long = format!("{}.{}", "a".repeat(126), "b".repeat(126));
        for gateway in [long.as_str(), &"a".repeat(253), &"a".repeat(56), "shop.example.com", "7eleven", "7.x"] {
            let name = workload_name(gateway, "selvage");
            assert!(is_service_name(&name), "{gateway}: {name}");
            assert!(label_value(gateway).len() <= 63);
            assert!(label_value(gateway).ends_with(|one: char| one.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn names_that_differ_only_where_they_are_cut_stay_two() {
        let (one, other) = (format!("{}x", "a".repeat(100)), format!("{}y", "a".repeat(100)));
        assert_ne!(workload_name(&one, "selvage"), workload_name(&other, "selvage"));
        assert_ne!(label_value(&one), label_value(&other));
        assert_ne!(workload_name("a.b", "selvage"), workload_name("a-b", "selvage"));
        assert_ne!(workload_name("7x", "selvage"), workload_name("g7x", "selvage"));
    }
}
