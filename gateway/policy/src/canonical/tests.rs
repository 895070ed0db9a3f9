//! What becomes of paths and hosts that systems disagree about.

use super::{InvalidRequest, authority, path};
use crate::mesh::{DoubleSlash, Encoded, PathHandling};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use std::borrow::Cow;

const KEEP: PathHandling = PathHandling { encoded_slash: Encoded::Keep, encoded_backslash: Encoded::Keep, double_slash: DoubleSlash::Keep };
const REFUSE: PathHandling =
    PathHandling { encoded_slash: Encoded::Refuse, encoded_backslash: Encoded::Refuse, double_slash: DoubleSlash::Refuse };

fn canonical(raw: &str, handling: PathHandling) -> Result<String, InvalidRequest> {
    path(raw, handling).map(Cow::into_owned)
}

#[test]
fn paths_take_their_one_form() {
    let table = [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a/...;x", "/a/...;x"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/%61dmin", "/admin"),
        ("/%41%7e%2D%5f", "/A~-_"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/café", "/caf%C3%A9"),
        ("/%20", "/%20"),
        ("/%3fa%23", "/%3Fa%23"),
        ("/a%25b", "/a%25b"),
        ("/%2525", "/%2525"),
        ("/{id}|^`\"<>", "/%7Bid%7D%7C%5E%60%22%3C%3E"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/.", "/"),
        ("/./", "/"),
        ("/a/..", "/"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/../..", "/"),
        ("/a/b/../../c", "/c"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E./b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e/b", "/a/b"),
        ("//admin", "/admin"),
        ("///a////b//", "/a/b/"),
        ("/a//../b", "/b"),
        ("/a/.//b", "/a/b"),
        ("/a/b//", "/a/b/"),
    ];
    for (raw, expected) in table {
        assert_eq!(canonical(raw, PathHandling::default()).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn what_systems_read_in_two_ways_is_refused() {
    use InvalidRequest::{Character, Root, Separator, Triplet};
    let table = [
        ("", Root),
        ("admin", Root),
        ("*", Root),
        ("http://a/b", Root),
        ("/..", Root),
        ("/../admin", Root),
        ("/a/../../b", Root),
        ("/%2e%2e/admin", Root),
        ("/./../a", Root),
        ("/%", Triplet),
        ("/%4", Triplet),
        ("/%zz", Triplet),
        ("/%u0041", Triplet),
        ("/%+1", Triplet),
        ("/a%", Triplet),
        ("/\0", Character),
        ("/%00", Character),
        ("/a%0d%0ab", Character),
        ("/%7F", Character),
        ("/\x7f", Character),
        ("/a b", Character),
        ("/a\tb", Character),
        ("/a\\b", Character),
        ("/a?b", Character),
        ("/a#b", Character),
        ("/%1b", Character),
        ("/a%2fb", Separator),
        ("/a%2Fb", Separator),
        ("/..%2fadmin", Separator),
        ("/%5c", Separator),
        ("/..%5Cadmin", Separator),
        ("/pub/..;/admin", Separator),
        ("/pub/..;x=1/admin", Separator),
        ("/pub/%2e%2e;/admin", Separator),
        ("/pub/.%2e;/admin", Separator),
        ("/pub/..%3b/admin", Separator),
        ("/pub/.;/admin", Separator),
        ("/pub/..;", Separator),
    ];
    for (raw, expected) in table {
        assert_eq!(canonical(raw, PathHandling::default()), Err(expected), "{raw:?}");
    }
}

#[test]
fn the_platform_says_what_becomes_of_separators() {
    let table = [
        ("/a%2fb", KEEP, Ok("/a%2Fb")),
        ("/a%5cb", KEEP, Ok("/a%5Cb")),
        ("/..%2fb", KEEP, Ok("/..%2Fb")),
        ("/a//b", KEEP, Ok("/a//b")),
        ("//a", KEEP, Ok("//a")),
        ("/a//../b", KEEP, Ok("/a/b")),
        ("/a\\b", KEEP, Err(InvalidRequest::Character)),
        ("/a/..;/b", KEEP, Err(InvalidRequest::Separator)),
        ("/a//b", REFUSE, Err(InvalidRequest::Separator)),
        ("//a", REFUSE, Err(InvalidRequest::Separator)),
        ("/a//", REFUSE, Err(InvalidRequest::Separator)),
        ("/a/b/", REFUSE, Ok("/a/b/")),
    ];
    for (raw, handling, expected) in table {
        assert_eq!(canonical(raw, handling).as_deref(), expected.as_ref().map(|text| *text), "{raw}");
    }
}

#[test]
fn a_canonical_path_is_borrowed() {
    for raw in ["/", "/a/b", "/a/%20b", "/.well-known/acme", "/caf%C3%A9", "/a;b=c/@d"] {
        assert!(matches!(path(raw, PathHandling::default()), Ok(Cow::Borrowed(_))), "{raw}");
    }
}

#[test]
fn hosts_take_their_one_form() {
    let table = [
        ("shop.example.com", Ok(("shop.example.com", None))),
        ("Shop.Example.COM:8080", Ok(("shop.example.com", Some(8080)))),
        ("shop.example.com.", Ok(("shop.example.com", None))),
        ("shop.example.com.:443", Ok(("shop.example.com", Some(443)))),
        ("localhost", Ok(("localhost", None))),
        ("my_service", Ok(("my_service", None))),
        ("127.0.0.1:80", Ok(("127.0.0.1", Some(80)))),
        ("[::1]", Ok(("[::1]", None))),
        ("[0:0::1]:80", Ok(("[::1]", Some(80)))),
        ("[FE80::A]", Ok(("[fe80::a]", None))),
    ];
    for (raw, expected) in table {
        let found = authority(raw).map(|(host, port)| (host.into_owned(), port));
        assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), expected.as_ref().map(|pair| *pair), "{raw}");
    }
    let bad = [
        "",
        ".",
        "..",
        "local host",
        "a,b",
        "a/evil",
        "a?x",
        "a#x",
        "a\\b",
        "[::1",
        "::1",
        "[]",
        "[::1]x",
        "[::1]]",
        "[::1%25eth0]",
        "a@b",
        "u:p@h",
        "a:",
        "a:0",
        "a:99999",
        "a:80a",
        "a:+80",
        "a:1:2",
        "a..b",
        "a.b..",
        ".a",
        "a\0",
        "a\r\nb",
        "a%2eb",
        "é",
        "*.a",
        "a:080000",
    ];
    for raw in bad {
        assert_eq!(authority(raw), Err(InvalidRequest::Host), "{raw:?}");
    }
    let long = format!("{}.com", "a".repeat(64));
    assert_eq!(authority(&long), Err(InvalidRequest::Host));
}

#[test]
fn a_refused_path_is_answered_with_a_sentence() {
    let denial = crate::Denial::from(InvalidRequest::Separator);
    assert_eq!((denial.reason.status(), denial.detail.starts_with("The path"), denial.detail.ends_with('.')), (400, true, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// What goes upstream is what was decided on, and nothing that is refused survives in it.
    #[test]
    fn the_canonical_path_is_a_fixed_point(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "/", "//", "/./", "/../", "..", ".", "a", "B", ";", "..;", "%2e", "%2E", "%2f", "%5c", "%5C", "%3b", "%41", "%7e", "%c3%a9", "%25",
                "%20", "é", "{", "|", "admin", "%", "\\", " ", "%00", "*",
            ]),
            0..12,
        ),
        mode in 0..3usize,
    ) {
        let handling = [PathHandling::default(), KEEP, REFUSE][mode];
        let raw = format!("/{}", pieces.concat());
        if let Ok(once) = path(&raw, handling) {
            let twice = path(&once, handling);
            prop_assert!(matches!(twice, Ok(Cow::Borrowed(_))) || mode != 0, "{once} is not recognised as canonical");
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
            prop_assert!(once.starts_with('/'));
            prop_assert!(once.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#{}|^`\"<>".contains(&byte)), "{once}");
            prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".." && !segment.starts_with("..;") && !segment.starts_with(".;")), "{once}");
            prop_assert!(!once.contains("%41") && !once.contains("%2E") && !once.contains("%2e") && !once.contains("%00"), "{once}");
            if mode != 1 {
                prop_assert!(!once.contains("//") && !once.contains("%2F") && !once.contains("%5C"), "{once}");
            }
        }
    }

    #[test]
    fn any_text_is_refused_or_made_canonical(raw in any::<String>(), keep in any::<bool>()) {
        let handling = if keep { KEEP } else { PathHandling::default() };
        let raw = format!("/{raw}");
        if let Ok(once) = path(&raw, handling) {
            let twice = path(&once, handling);
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
        }
    }

    #[test]
    fn a_canonical_host_is_a_fixed_point(raw in "[a-zA-Z0-9._:\\[\\]-]{0,24}") {
        if let Ok((once, port)) = authority(&raw) {
            prop_assert_eq!(authority(&once), Ok((once.clone(), None)));
            prop_assert!(port != Some(0));
        }
    }
}
