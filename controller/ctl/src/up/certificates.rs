//! Certificates for HTTPS listeners on a laptop, where nobody has made their Secrets.
//!
//! They are signed by a root of their own, `.selvage/certificates/root.pem` (for `curl --cacert`). It is not the mesh's root:
//! whoever trusts it in a browser must not thereby trust workloads.

use anyhow::{Context, Result};
use jiff::{Span, Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long a leaf is valid: no more than clients put up with (398 days).
const LEAF_DAYS: i64 = 397;

/// A leaf older than this is made anew when `up` starts.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The leaf, then the root.
    pub chain: String,
    /// PKCS#8.
    pub key: String,
}

/// Where the certificates of a directory are.
#[derive(Clone, Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// In the state folder of a directory.
    pub fn of(state: &Path) -> Self {
        Self(state.join("certificates"))
    }

    /// The root that signs them, to be given to clients.
    pub fn root(&self) -> PathBuf {
        self.0.join("root.pem")
    }

    /// The certificate for one Secret: as it was made before, or a new one for these names and addresses.
    pub fn pair(&self, namespace: &str, secret: &str, names: &[String], addresses: &[IpAddr]) -> Result<Pair> {
        let (chain, key) = (self.0.join(format!("{namespace}.{secret}.pem")), self.0.join(format!("{namespace}.{secret}.key")));
        let (list, wanted) = (self.0.join(format!("{namespace}.{secret}.names")), format!("{names:?} {addresses:?}"));
        let fresh = fs::metadata(&chain)
            .and_then(|file| file.modified())
            .is_ok_and(|made| SystemTime::now().duration_since(made).unwrap_or_default() < RENEW_AFTER);
        if fresh
            && fs::read_to_string(&list).is_ok_and(|made| made == wanted)
            && let (Ok(chain), Ok(key)) = (fs::read_to_string(&chain), fs::read_to_string(&key))
        {
            return Ok(Pair { chain, key });
        }
        let made = self.make(secret, names, addresses)?;
        write(&key, &made.key, 0o600)?;
        write(&chain, &made.chain, 0o644)?;
        write(&list, &wanted, 0o644)?;
        Ok(made)
    }

    /// A certificate that is kept nowhere: for explaining and checking.
    pub fn imagined(secret: &str, names: &[String], addresses: &[IpAddr]) -> Result<Pair> {
        let (root, pair, params) = Self::new_root()?;
        Self::leaf(secret, names, addresses, &root, &Issuer::new(params, pair))
    }

    fn make(&self, name: &str, names: &[String], addresses: &[IpAddr]) -> Result<Pair> {
        let (root, issuer) = self.issuer()?;
        Self::leaf(name, names, addresses, &root, &issuer)
    }

    fn leaf(name: &str, names: &[String], addresses: &[IpAddr], root: &str, issuer: &Issuer<'_, KeyPair>) -> Result<Pair> {
        let mut params = CertificateParams::new(names.to_vec()).context("a listener's hostname is no name for a certificate")?;
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, (-1).day(), LEAF_DAYS.days());
        let key = KeyPair::generate().context("no key can be made")?;
        let leaf = params.signed_by(&key, issuer).context("the certificate cannot be signed")?;
        Ok(Pair { chain: format!("{}{root}", leaf.pem()), key: key.serialize_pem() })
    }

    /// The root, made at the first call.
    fn issuer(&self) -> Result<(String, Issuer<'static, KeyPair>)> {
        let (root, key) = (self.root(), self.0.join("root.key"));
        if let (Ok(root), Ok(key)) = (fs::read_to_string(&root), fs::read_to_string(&key)) {
            let key =
                KeyPair::from_pem(&key).with_context(|| format!("{} holds no key; remove the folder to start afresh", self.0.display()))?;
            let issuer = Issuer::from_ca_cert_pem(&root, key).with_context(|| format!("{} is no certificate", self.root().display()))?;
            return Ok((root, issuer));
        }
        let (certificate, pair, params) = Self::new_root()?;
        write(&key, &pair.serialize_pem(), 0o600)?;
        write(&root, &certificate, 0o644)?;
        Ok((certificate, Issuer::new(params, pair)))
    }

    fn new_root() -> Result<(String, KeyPair, CertificateParams)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Selvage laptop listeners");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        valid(&mut params, (-1).day(), 3650.days());
        let pair = KeyPair::generate().context("no key can be made")?;
        let certificate = params.self_signed(&pair).context("the root cannot be signed")?;
        Ok((certificate.pem(), pair, params))
    }
}

/// The beginning of a day so far from today.
fn day(from_today: Span) -> (i32, u8, u8) {
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = today.checked_add(from_today).unwrap_or(today);
    (date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
}

/// Limits the validity of a certificate.
fn valid(params: &mut CertificateParams, from: Span, to: Span) {
    let moment = |(year, month, day)| date_time_ymd(year, month, day);
    (params.not_before, params.not_after) = (moment(day(from)), moment(day(to)));
}

/// Writes a file whole, with its mode from the first byte on.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let new = path.with_extension("new");
        // Left over from a run that was killed.
        let _ = fs::remove_file(&new);
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_made_once_for_the_same_names_and_anew_for_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::of(folder.path());
        let address: IpAddr = "127.64.1.1".parse().expect("an address");
        let pair = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            certificates.pair("shop", "tls", &names, &[address]).expect("a certificate")
        };
        let first = pair(&["localhost"]);
        assert!(first == pair(&["localhost"]));
        let other = pair(&["localhost", "shop.example"]);
        assert!(first != other);
        // The root stays: clients trust it.
        let root = fs::read_to_string(certificates.root()).expect("a root");
        assert!(first.chain.ends_with(&root) && other.chain.ends_with(&root));
        for key in ["root.key", "shop.tls.key"] {
            let mode = fs::metadata(folder.path().join("certificates").join(key)).expect("a key").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }
}
