use super::*;
use crate::resource::{CertificateSpec, Secret, VersionKey, keys};
use serde_json::json;

struct Disk {
    directory: tempfile::TempDir,
    last_good: LastGood,
}

fn disk() -> Disk {
    let directory = tempfile::tempdir().expect("a directory");
    let last_good = LastGood::new(directory.path().join("state"), directory.path().join("memory/secrets"));
    Disk { directory, last_good }
}

fn mesh(domain: &str) -> Resource {
    Resource::core(keys::mesh(), &json!({"trustDomain": domain, "roots": []}), 0)
}

fn certificate() -> Resource {
    let spec = CertificateSpec { chain: "CHAIN".into(), private_key: Secret::new("SECRET".into()) };
    Resource::secret(keys::certificate("shop", "tls"), &spec, &VersionKey::derive(b"test"))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

impl Disk {
    fn plain(&self, name: &str) -> PathBuf {
        self.directory.path().join("state").join(name)
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.directory.path().join("memory/secrets").join(name)
    }

    /// Two generations: `old`, then `new`.
    fn filled() -> Self {
        let disk = disk();
        disk.last_good.save([&mesh("old"), &certificate()], at(0)).expect("saved");
        disk.last_good.save([&mesh("new"), &certificate()], at(10)).expect("saved");
        disk
    }

    fn domain(&self) -> Option<String> {
        let kept = self.last_good.load(at(60));
        kept.resources.iter().find(|r| r.key == keys::mesh()).and_then(|r| r.spec["trustDomain"].as_str().map(str::to_string))
    }
}

#[test]
fn the_newest_generation_is_found_with_its_age_and_its_secrets() {
    let disk = Disk::filled();
    let kept = disk.last_good.load(at(60));
    assert_eq!(kept.resources, [mesh("new"), certificate()]);
    assert_eq!(kept.age, Some(Duration::from_secs(50)));
    assert!(kept.refused.is_empty());
}

#[test]
fn nothing_saved_is_nothing_found() {
    let kept = disk().last_good.load(at(0));
    assert!(kept.resources.is_empty() && kept.age.is_none() && kept.refused.is_empty());
}

#[test]
fn secrets_are_kept_apart_and_for_the_owner_alone() {
    let disk = Disk::filled();
    for name in [NEWEST, OLDER] {
        assert!(!fs::read_to_string(disk.plain(name)).expect("text").contains("SECRET"));
        assert!(fs::read_to_string(disk.secret(name)).expect("text").contains("SECRET"));
        assert_eq!(fs::metadata(disk.secret(name)).expect("exists").permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(disk.secret("")).expect("exists").permissions().mode() & 0o777, 0o700);
    // Secrets that others could have read or written are not trusted.
    for name in [NEWEST, OLDER] {
        fs::set_permissions(disk.secret(name), fs::Permissions::from_mode(0o644)).expect("chmod");
    }
    let kept = disk.last_good.load(at(60));
    assert_eq!(kept.resources, [mesh("new")]);
    assert!(matches!(kept.refused[0].problem, Problem::Mode(0o644)), "{:?}", kept.refused);
}

#[test]
fn secrets_that_are_gone_leave_the_rest_usable() {
    let disk = Disk::filled();
    fs::remove_dir_all(disk.secret("")).expect("removed");
    assert_eq!(disk.last_good.load(at(60)).resources, [mesh("new")]);
}

#[test]
fn a_generation_cut_off_anywhere_is_refused_for_the_one_before() {
    let disk = Disk::filled();
    let whole = fs::read(disk.plain(NEWEST)).expect("bytes");
    for length in 0..whole.len() {
        fs::write(disk.plain(NEWEST), &whole[..length]).expect("written");
        assert_eq!(disk.domain().as_deref(), Some("old"), "{length} bytes");
        assert_eq!(disk.last_good.load(at(60)).refused.len(), 1, "{length} bytes");
    }
}

#[test]
fn a_generation_with_any_byte_changed_is_refused_for_the_one_before() {
    let disk = Disk::filled();
    let whole = fs::read(disk.plain(NEWEST)).expect("bytes");
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        fs::write(disk.plain(NEWEST), &changed).expect("written");
        assert_eq!(disk.domain().as_deref(), Some("old"), "byte {place}");
    }
}

#[test]
fn a_generation_of_another_schema_is_refused() {
    let disk = Disk::filled();
    for name in [NEWEST, OLDER] {
        let text = fs::read_to_string(disk.plain(name)).expect("text");
        fs::write(disk.plain(name), text.replace(r#""schema":1"#, r#""schema":0"#)).expect("written");
    }
    let kept = disk.last_good.load(at(60));
    assert!(kept.resources.is_empty() && kept.age.is_none(), "secrets alone are no configuration");
    assert_eq!(kept.refused.len(), 2);
    assert!(kept.refused.iter().all(|damaged| damaged.to_string().contains("schema 0")), "{:?}", kept.refused);
}

#[test]
fn a_damaged_generation_does_not_push_out_the_intact_one() {
    let disk = Disk::filled();
    fs::write(disk.plain(NEWEST), "nonsense").expect("written");
    disk.last_good.save([&mesh("newer")], at(20)).expect("saved");
    assert_eq!(disk.domain().as_deref(), Some("newer"));
    fs::write(disk.plain(NEWEST), "nonsense").expect("written");
    assert_eq!(disk.domain().as_deref(), Some("old"));
}

#[test]
fn a_crash_between_the_two_steps_of_saving_leaves_the_one_before() {
    let disk = Disk::filled();
    fs::rename(disk.plain(NEWEST), disk.plain(OLDER)).expect("renamed");
    let kept = disk.last_good.load(at(60));
    assert_eq!((disk.domain().as_deref(), kept.refused.len()), (Some("new"), 0));
}
