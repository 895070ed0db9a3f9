use super::*;
use crate::resource::{CertificateSpec, Class, Origin, Secret, keys};
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn key() -> VersionKey {
    VersionKey::derive(b"test")
}

fn mesh() -> Resource {
    Resource::core(keys::mesh(), &json!({"trustDomain": "cluster.local", "roots": ["-----BEGIN CERTIFICATE-----\nAAA\n"]}), 0)
}

fn certificate() -> Resource {
    let spec = CertificateSpec { chain: "CHAIN\nTWO\n".into(), private_key: Secret::new("SECRET-KEY\n".into()) };
    Resource::secret(keys::certificate("shop", "tls"), &spec, &key())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("exists").permissions().mode() & 0o777
}

#[test]
fn the_secrets_file_lies_beside_the_file() {
    for (path, secrets) in [("/a/b.yaml", "/a/b.secrets.yaml"), ("b.c.json", "b.c.secrets.json"), ("/a.d/b", "/a.d/b.secrets")] {
        assert_eq!(secrets_path(Path::new(path)), Path::new(secrets));
    }
}

#[test]
fn what_is_written_is_read_back_with_secrets_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["proxy.yaml", "proxy.json"] {
        let path = directory.path().join(name);
        write(&path, [&mesh(), &certificate()]).expect("written");
        let read = read(&path, &key()).expect("read");
        assert_eq!(read.into_values().collect::<Vec<_>>(), [certificate(), mesh()], "{name}");
        assert!(!fs::read_to_string(&path).expect("text").contains("SECRET"), "{name}");
        assert_eq!((mode(&secrets_path(&path)), mode(&path) & 0o600), (0o600, 0o600), "{name}");
        // Nothing is left of the writing, and secrets that are gone are gone from disk.
        write(&path, [&mesh()]).expect("written");
        assert!(!secrets_path(&path).exists(), "{name}");
    }
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 2);
}

#[test]
fn secrets_that_others_may_read_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    write(&path, [&mesh(), &certificate()]).expect("written");
    for bits in [0o644, 0o640, 0o604, 0o660, 0o601, 0o620] {
        fs::set_permissions(secrets_path(&path), fs::Permissions::from_mode(bits)).expect("chmod");
        let error = read(&path, &key()).expect_err("too wide").to_string();
        assert!(error.contains("chmod 600") && error.contains(&format!("{bits:04o}")), "{error}");
    }
    for bits in [0o600, 0o400] {
        fs::set_permissions(secrets_path(&path), fs::Permissions::from_mode(bits)).expect("chmod");
        assert!(read(&path, &key()).is_ok(), "{bits:o}");
    }
}

#[test]
fn what_is_wrong_is_named_by_place_key_and_field() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    let head = "apiVersion: selvage.dev/v1alpha1\nkind: ProxyConfig\nresources:\n";
    let mesh = "- { key: Mesh/default, class: core, spec: { trustDomain: td, roots: [] } }\n";
    let table: [(String, &[&str]); 11] = [
        (format!("{head}{mesh}{mesh}"), &["Mesh/default is there twice"]),
        (format!("{head}- {{ key: Mesh/default, class: core, colour: 1, spec: {{}} }}\n"), &["resources[0] (Mesh/default)", "colour"]),
        (
            format!("{head}{mesh}- {{ key: Backend/shop/a#80, class: core, spec: {{ port: x }} }}\n"),
            &["resources[1] (Backend/shop/a#80)", "spec.port"],
        ),
        (format!("{head}- {{ key: Mesh/default, class: core, spec: {{ trustDomain: UP, roots: [] }} }}\n"), &["spec.trustDomain", "`UP`"]),
        (format!("{head}- {{ key: Teapot/a, class: core, spec: {{}} }}\n"), &["resources[0] (Teapot/a)", "kind is not known"]),
        (format!("{head}- {{ key: a/b/c/d, class: core, spec: {{}} }}\n"), &["resources[0] (a/b/c/d)", "not a key"]),
        (
            format!("{head}- {{ key: Certificate/shop/tls, class: core, spec: {{ chain: a, privateKey: SECRET }} }}\n"),
            &["belongs into", "proxy.secrets.yaml"],
        ),
        (format!("{head}- nonsense\n"), &["resources[0]"]),
        ("apiVersion: v1\nkind: Pod\nresources: []\n".into(), &["is v1 Pod, expected selvage.dev/v1alpha1 ProxyConfig"]),
        ("apiVersion: selvage.dev/v1alpha1\nkind: ProxyConfig\nresources: []\nmore: 1\n".into(), &["more"]),
        ("a: [\n".into(), &["proxy.yaml"]),
    ];
    for (text, expected) in table {
        fs::write(&path, &text).expect("written");
        let error = read(&path, &key()).expect_err(&text).to_string();
        assert!(expected.iter().all(|part| error.contains(part)) && error.contains("proxy.yaml"), "{error}");
        assert!(!error.contains("SECRET"), "{error}");
    }
    fs::write(&path, format!("{head}{mesh}")).expect("written");
    assert_eq!(read(&path, &key()).expect("well formed").len(), 1);
    assert!(read(&directory.path().join("none.yaml"), &key()).is_err());
}

#[test]
fn errors_in_the_secrets_file_do_not_quote_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    write(&path, [&mesh()]).expect("written");
    let head = "apiVersion: selvage.dev/v1alpha1\nkind: ProxyConfig\nresources:\n";
    for (text, expected) in [
        (format!("{head}- {{ key: Certificate/shop/tls, class: core, spec: SECRET }}\n"), "Certificate/shop/tls"),
        (format!("{head}- {{ key: Certificate/shop/tls, class: core, spec: {{ chain: SECRET, privateKey: [SECRET] }} }}\n"), "privateKey"),
        (
            format!("{head}- {{ key: Certificate/shop/tls, class: core, spec: {{ chain: SECRET, privateKey: \"SECRET }} }}\n"),
            "proxy.secrets.yaml",
        ),
        (format!("{head}- SECRET\n"), "resources[0]"),
        (format!("{head}- {{ key: Mesh/default, class: core, spec: {{ trustDomain: td, roots: [] }} }}\n"), "holds no secret"),
    ] {
        replace(&secrets_path(&path), text.as_bytes(), 0o600).expect("written");
        let error = read(&path, &key()).expect_err(&text).to_string();
        assert!(error.contains(expected) && !error.contains("SECRET"), "{error}");
    }
}

#[test]
fn an_edit_by_hand_changes_the_version_whatever_it_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    write(&path, [&mesh()]).expect("written");
    let before = fs::read_to_string(&path).expect("text");
    assert!(before.contains(&mesh().version), "{before}");
    fs::write(&path, before.replace("cluster.local", "other.local")).expect("written");
    assert_ne!(read(&path, &key()).expect("read")[&keys::mesh()].version, mesh().version);
}

#[test]
fn what_is_shown_is_the_file_form_without_secrets() {
    let shown = to_yaml([&mesh(), &certificate()]);
    assert!(shown.starts_with("apiVersion: selvage.dev/v1alpha1") && shown.contains("<redacted>") && shown.contains("CHAIN"), "{shown}");
    assert!(!shown.contains("SECRET"), "{shown}");
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    fs::File::create(&path).and_then(|file| file.set_len(MAX_FILE + 1)).expect("a sparse file");
    assert!(matches!(read(&path, &key()), Err(InvalidFile::TooLarge(_))));
}

#[test]
fn thousands_of_routes_are_read_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy.yaml");
    let route = |number: usize| {
        let rule = |path: &str| {
            json!({
                "matches": [{ "path": { "prefix": path }, "method": "GET", "headers": [{ "name": "x-a", "value": { "exact": "1" } }] }],
                "filters": [{ "requestHeaders": { "set": [["x-b", "2"]] } }],
                "backends": [{ "backend": format!("Backend/shop/service-{number}#80"), "weight": 1 }],
            })
        };
        let name = format!("route-{number}");
        let spec = json!({
            "object": { "kind": "HTTPRoute", "namespace": "shop", "name": name },
            "parents": ["Listener/shop/public#http"],
            "hostnames": [format!("{name}.example")],
            "rules": [rule("/a"), rule("/b")],
        });
        Resource::core(keys::route("shop", "HTTPRoute", &name), &spec, 0)
    };
    let routes: Vec<Resource> = (0..6000).map(route).collect();
    write(&path, &routes).expect("written");
    let read = read(&path, &key()).expect("read");
    assert!(read.len() == routes.len() && routes.iter().all(|route| read.get(&route.key) == Some(route)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// YAML has many texts that are something else than text; none may change by being written.
    #[test]
    fn every_text_survives_yaml(text in "[ -~\n\tä]{0,24}", odd in proptest::sample::select(vec!["", "null", "~", "yes", "1e3", "0x10", "- a", "a: b", "#", "'", "\"", "|", "2026-01-01", "*a", "&a", "!x", "%", "\u{85}", "\r\n"])) {
        for text in [text, odd.to_string()] {
            let resource = Resource::new(keys::policy(selvage_policy::list::Kind::TrafficPolicy, "shop", "a"), Class::Traffic, &json!({"a": text, (text.clone()): 1}), Origin::default());
            let written = yaml(&[&resource]);
            let document: Document = serde_saphyr::from_str(&written).expect(&written);
            prop_assert_eq!(&document.resources[0]["spec"], &resource.spec, "{}", written);
        }
    }
}
